//! Functions of vectors, out of the operations of [`Simd`].

use super::Simd;

/// `2^f` on [-1/2, 1/2], as `1 + f * (C[0] + f * (C[1] + …))`: a minimax fit of relative error
/// 2.0e-9 before rounding. Exactly 1 at 0.
const EXP2: [f32; 6] =
    [6.931_472e-1, 2.402_264_8e-1, 5.550_332_4e-2, 9.618_437e-3, 1.339_887_5e-3, 1.535_336_2e-4];

/// `2^x`, less than 1 ulp off (1.25 ulp on the portable path, whose multiply-adds round twice), over
/// all `x`. Exactly 1 at 0 and exactly 0 at -inf; NaN stays NaN.
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

/// The odd Taylor series of `tanh(x) / x - 1` over `x^2`: enough below 1/4, where the quotient below
/// would cancel.
const TANH: [f32; 4] = [-1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0, 62.0 / 2835.0];

/// The hyperbolic tangent.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let magnitude = S::max(S::sub(S::splat(0.0), x), x);
        // tanh(|x|) = 1 - 2 / (e^(2|x|) + 1), and 1 where that power overflows.
        let capped = S::where_less(magnitude, S::splat(20.0), magnitude, S::splat(20.0));
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
