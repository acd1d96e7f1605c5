//! Functions of vectors, out of the operations of [`Simd`].

use super::Simd;

/// `2^f` on [-1/2, 1/2], as `1 + f * (C[0] + f * (C[1] + …))`: a minimax fit of relative error
/// 2.0e-9 before rounding. Exactly 1 at 0.
const EXP2: [f32; 6] =
    [6.931_472e-1, 2.402_264_8e-1, 5.550_332_4e-2, 9.618_437e-3, 1.339_887_5e-3, 1.535_336_2e-4];

/// `2^x`, at most 0.96 ulp off (1.23 ulp on the portable path, whose multiply-adds round twice) for every
/// `x` below 128: each has been looked at. Exactly 1 at 0 and exactly 0 at -inf; NaN stays NaN.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        // Below -150 the result is 0 and -inf would make a NaN of `x - n`; NaN is the second operand.
        let x = S::max(S::splat(-150.0), x);
        let n = S::round(x);
        let f = S::sub(x, n);
        let mut p = S::splat(EXP2[5]);
        p = S::fma(p, f, S::splat(EXP2[4]));
        p = S::fma(p, f, S::splat(EXP2[3]));
        p = S::fma(p, f, S::splat(EXP2[2]));
        p = S::fma(p, f, S::splat(EXP2[1]));
        p = S::fma(p, f, S::splat(EXP2[0]));
        p = S::fma(p, f, S::splat(1.0));
        S::scale2(p, n)
    }
}

/// `ln(m)` as `2 s (1 + s^2 (C[0] + s^2 (C[1] + …)))` with `s = (m - 1) / (m + 1)`: the series of the area
/// tangent, which has converged where `m` is within a factor of the square root of 2 from 1.
const LN: [f32; 4] = [1.0 / 3.0, 1.0 / 5.0, 1.0 / 7.0, 1.0 / 9.0];

/// The natural logarithm of a normal number above 0, at most 1.97 ulp off: each has been looked at. Exactly 0 at 1; NaN stays NaN.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn ln<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let (m, e) = S::split2(x);
        // From 1 to 2, to within a factor of the square root of 2 from 1.
        let (root, one) = (S::splat(core::f32::consts::SQRT_2), S::splat(1.0));
        let e = S::where_less(m, root, e, S::add(e, one));
        let m = S::where_less(m, root, m, S::mul(m, S::splat(0.5)));
        let s = S::div(S::sub(m, one), S::add(m, one));
        let square = S::mul(s, s);
        let mut p = S::splat(LN[3]);
        p = S::fma(p, square, S::splat(LN[2]));
        p = S::fma(p, square, S::splat(LN[1]));
        p = S::fma(p, square, S::splat(LN[0]));
        p = S::mul(p, square);
        let twice = S::add(s, s);
        let ln = S::fma(e, S::splat(core::f32::consts::LN_2), S::fma(twice, p, twice));
        // Of NaN, the parts may be numbers.
        S::add(ln, S::sub(x, x))
    }
}

/// The odd Taylor series of `tanh(x) / x - 1` over `x^2`: enough below 1/4, where the quotient below
/// would cancel.
const TANH: [f32; 4] = [-1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0, 62.0 / 2835.0];

/// The hyperbolic tangent. NaN stays NaN.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let magnitude = S::max(S::sub(S::splat(0.0), x), x);
        // tanh(|x|) = 1 - 2 / (e^(2|x|) + 1), and 1 where that power overflows. Of NaN, nothing is less.
        let capped = S::where_less(S::splat(20.0), magnitude, S::splat(20.0), magnitude);
        let power = exp2::<S>(S::mul(capped, S::splat(2.0 * core::f32::consts::LOG2_E)));
        let far = S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(power, S::splat(1.0))));
        let far = S::where_less(x, S::splat(0.0), S::sub(S::splat(0.0), far), far);
        let square = S::mul(x, x);
        let mut p = S::splat(TANH[3]);
        p = S::fma(p, square, S::splat(TANH[2]));
        p = S::fma(p, square, S::splat(TANH[1]));
        p = S::fma(p, square, S::splat(TANH[0]));
        let near = S::fma(S::mul(x, square), p, x);
        S::where_less(magnitude, S::splat(0.25), near, far)
    }
}
