//! Every instruction set of this machine, operation by operation, against scalar arithmetic.

use super::{Simd, exp2, ln, tanh};
use crate::Isa;
use microseq_core::{bf16, f16};
use std::println;
use std::vec::Vec;

/// Runs a generic test on each instruction set, inside a function that enables it.
macro_rules! on_every_isa {
    ($($name:ident => $test:ident;)*) => {$(
        #[test]
        fn $name() {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn on_avx2() {
                    // SAFETY: the caller has the instruction set.
                    unsafe { $test::<super::Avx2>() }
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                unsafe fn on_avx512() {
                    // SAFETY: the caller has the instruction set.
                    unsafe { $test::<super::Avx512>() }
                }
                if Isa::Avx2.available() {
                    // SAFETY: it is available.
                    unsafe { on_avx2() }
                }
                if Isa::Avx512.available() {
                    // SAFETY: it is available.
                    unsafe { on_avx512() }
                }
            }
            // SAFETY: this one needs nothing.
            unsafe { $test::<super::Portable>() }
        }
    )*};
}

on_every_isa! {
    exp2_is_within_an_ulp => check_exp2;
    exp2_is_exact_where_masks_need_it => check_exp2_points;
    tanh_is_close => check_tanh;
    ln_is_within_two_ulp => check_ln;
    joining_lanes_meets_every_lane => check_join;
    every_f16_and_bf16_widens_and_returns => check_halves;
    rounding_to_halves_is_to_nearest_even => check_rounding;
    transposing_exchanges_rows_and_columns => check_transpose;
    lanes_compute_what_scalars_do => check_arithmetic;
}

/// One vector in, one out.
#[inline(always)]
unsafe fn map<S: Simd>(inputs: &[f32], f: impl Fn(S::V) -> S::V) -> Vec<f32> {
    let mut padded = inputs.to_vec();
    padded.resize(inputs.len().next_multiple_of(S::LANES), 0.0);
    for lane in (0..padded.len()).step_by(S::LANES) {
        let at = padded[lane..].as_mut_ptr();
        // SAFETY: a whole vector is left.
        unsafe { S::store(at, f(S::load(at))) }
    }
    padded.truncate(inputs.len());
    padded
}

/// Distance in units of the last place of an f32 near `exact`.
fn ulps(given: f32, exact: f64) -> f64 {
    let exponent = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(given) - exact).abs() / (exponent - 23.0).exp2()
}

/// Every 257th f32 from -150 to 128, where the result is finite and above 0.
#[inline(always)]
unsafe fn check_exp2<S: Simd>() {
    let below: Vec<f32> = (0x8000_0000u32..=(-150f32).to_bits()).step_by(257).map(f32::from_bits).collect();
    let above: Vec<f32> = (0u32..128f32.to_bits()).step_by(257).map(f32::from_bits).collect();
    let mut worst = (0.0, 0.0);
    for inputs in [below, above] {
        // SAFETY: the caller has the instruction set.
        let outputs = unsafe { map::<S>(&inputs, |v| exp2::<S>(v)) };
        for (x, y) in inputs.into_iter().zip(outputs) {
            let error = ulps(y, f64::from(x).exp2());
            if error > worst.0 {
                worst = (error, x);
            }
        }
    }
    let lanes = S::LANES;
    println!("{lanes} lanes: 2^x is at most {} ulp off, at {:e}", worst.0, worst.1);
    // Without fused multiply-adds every step rounds twice.
    let bound = if lanes == 4 { 1.25 } else { 1.0 };
    assert!(worst.0 < bound, "{lanes} lanes: 2^{:e} is {} ulp off", worst.1, worst.0);
}

#[inline(always)]
unsafe fn check_exp2_points<S: Simd>() {
    let points = [0.0, -0.0, f32::NEG_INFINITY, -1e30, -151.0, 1.0, -1.0, 10.0, f32::NAN];
    let expected = [1.0, 1.0, 0.0, 0.0, 0.0, 2.0, 0.5, 1024.0, f32::NAN];
    // SAFETY: the caller has the instruction set.
    let outputs = unsafe { map::<S>(&points, |v| exp2::<S>(v)) };
    for ((x, y), expected) in points.into_iter().zip(outputs).zip(expected) {
        assert!(y == expected || (y.is_nan() && expected.is_nan()), "2^{x} = {y}, expected {expected}");
    }
}

/// Every 257th normal number above 0, and all near 1, where the terms cancel.
#[inline(always)]
unsafe fn check_ln<S: Simd>() {
    let all = (f32::MIN_POSITIVE.to_bits()..f32::INFINITY.to_bits()).step_by(257);
    let near = 0.9f32.to_bits()..1.1f32.to_bits();
    let inputs: Vec<f32> = all.chain(near).map(f32::from_bits).collect();
    // SAFETY: the caller has the instruction set.
    let outputs = unsafe { map::<S>(&inputs, |v| ln::<S>(v)) };
    let mut worst = (0.0, 0.0);
    for (x, y) in inputs.into_iter().zip(outputs) {
        let error = ulps(y, f64::from(x).ln());
        if error > worst.0 {
            worst = (error, x);
        }
    }
    let lanes = S::LANES;
    println!("{lanes} lanes: ln is at most {} ulp off, at {:e}", worst.0, worst.1);
    assert!(worst.0 < 2.0, "{lanes} lanes: ln({:e}) is {} ulp off", worst.1, worst.0);
    // SAFETY: as above.
    let points = unsafe { map::<S>(&[1.0, f32::NAN], |v| ln::<S>(v)) };
    assert!(points[0].to_bits() == 0 && points[1].is_nan(), "{points:?}");
}

#[inline(always)]
unsafe fn check_join<S: Simd>() {
    // Small integers: sums are exact in any order.
    let square: Vec<f32> = (0..S::LANES * S::LANES).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    let (mut sums, mut largest) = (std::vec![0.0; S::LANES], std::vec![0.0; S::LANES]);
    // SAFETY: the caller has the instruction set; the arrays hold a square and two vectors.
    unsafe {
        S::store(sums.as_mut_ptr(), S::join::<false>(square.as_ptr()));
        S::store(largest.as_mut_ptr(), S::join::<true>(square.as_ptr()));
    }
    for (i, row) in square.chunks(S::LANES).enumerate() {
        assert_eq!(sums[i], row.iter().sum::<f32>(), "sum of vector {i}");
        assert_eq!(
            largest[i],
            row.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            "maximum of vector {i}"
        );
    }
}

#[inline(always)]
unsafe fn check_tanh<S: Simd>() {
    let positive: Vec<f32> = (0u32..50f32.to_bits()).step_by(10_007).map(f32::from_bits).collect();
    let inputs: Vec<f32> =
        positive.iter().flat_map(|x| [*x, -x]).chain([f32::INFINITY, f32::NEG_INFINITY]).collect();
    // SAFETY: the caller has the instruction set.
    let outputs = unsafe { map::<S>(&inputs, |v| tanh::<S>(v)) };
    for (x, y) in inputs.into_iter().zip(outputs) {
        let exact = f64::from(x).tanh();
        let error = (f64::from(y) - exact).abs();
        assert!(error <= 4e-7 * exact.abs(), "tanh({x:e}) = {y:e}, expected {exact:e}");
    }
    // SAFETY: as above.
    let of_nan = unsafe { map::<S>(&[f32::NAN], |v| tanh::<S>(v)) };
    assert!(of_nan[0].is_nan(), "tanh(NaN) = {}", of_nan[0]);
}

#[inline(always)]
unsafe fn check_halves<S: Simd>() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let mut wide = std::vec![0.0f32; all.len()];
    let mut back = std::vec![0u16; all.len()];
    for i in (0..all.len()).step_by(S::LANES) {
        // SAFETY: 65,536 is a multiple of the lanes.
        unsafe {
            let v = S::load_f16(all[i..].as_ptr());
            S::store(wide[i..].as_mut_ptr(), v);
            S::store_f16(back[i..].as_mut_ptr(), v);
        }
    }
    for (bits, (wide, back)) in all.iter().zip(wide.iter().zip(&back)) {
        let x = f16::from_bits(*bits);
        assert!(x.is_nan() && wide.is_nan() || x.to_f32().to_bits() == wide.to_bits(), "{bits:#x}");
        assert!(x.is_nan() && f16::from_bits(*back).is_nan() || back == bits, "{bits:#x} {back:#x}");
    }
    for i in (0..all.len()).step_by(S::LANES) {
        // SAFETY: as above.
        unsafe {
            let v = S::load_bf16(all[i..].as_ptr());
            S::store(wide[i..].as_mut_ptr(), v);
            S::store_bf16(back[i..].as_mut_ptr(), v);
        }
    }
    for (bits, (wide, back)) in all.iter().zip(wide.iter().zip(&back)) {
        let x = bf16::from_bits(*bits);
        assert!(x.is_nan() && wide.is_nan() || wide.to_bits() == u32::from(*bits) << 16, "{bits:#x}");
        assert!(x.is_nan() && bf16::from_bits(*back).is_nan() || back == bits, "{bits:#x} {back:#x}");
    }
}

#[inline(always)]
unsafe fn check_rounding<S: Simd>() {
    // Patterns around ties: the low bits of either format just below, at and above a half.
    let mut inputs: Vec<f32> = Vec::new();
    for high in (0..0x1_0000u32).step_by(7) {
        for low in [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff] {
            inputs.push(f32::from_bits(high << 16 | low));
        }
    }
    inputs.resize(inputs.len().next_multiple_of(16), 0.0);
    let mut bits = std::vec![0u16; inputs.len()];
    for i in (0..inputs.len()).step_by(S::LANES) {
        // SAFETY: the lengths are multiples of the lanes.
        unsafe { S::store_bf16(bits[i..].as_mut_ptr(), S::load(inputs[i..].as_ptr())) }
    }
    for (x, bits) in inputs.iter().zip(&bits) {
        let (expected, given) = (bf16::from_f32(*x), bf16::from_bits(*bits));
        assert!(expected.is_nan() && given.is_nan() || expected.to_bits() == *bits, "{x:e} {bits:#x}");
    }
    for i in (0..inputs.len()).step_by(S::LANES) {
        // SAFETY: as above.
        unsafe { S::store_f16(bits[i..].as_mut_ptr(), S::load(inputs[i..].as_ptr())) }
    }
    for (x, bits) in inputs.iter().zip(&bits) {
        let (expected, given) = (f16::from_f32(*x), f16::from_bits(*bits));
        assert!(expected.is_nan() && given.is_nan() || expected.to_bits() == *bits, "{x:e} {bits:#x}");
    }
}

#[inline(always)]
unsafe fn check_transpose<S: Simd>() {
    const STRIDE: usize = 37;
    let from: Vec<f32> = (0..S::LANES * STRIDE).map(|i| i as f32).collect();
    let mut to = std::vec![-1.0f32; S::LANES * STRIDE];
    // SAFETY: both hold a block of that stride.
    unsafe { S::transpose(from.as_ptr(), STRIDE, to.as_mut_ptr(), STRIDE) };
    for row in 0..S::LANES {
        for column in 0..STRIDE {
            let expected = if column < S::LANES { from[column * STRIDE + row] } else { -1.0 };
            assert_eq!(to[row * STRIDE + column], expected, "row {row}, column {column}");
        }
    }
}

#[inline(always)]
unsafe fn check_arithmetic<S: Simd>() {
    let a: Vec<f32> = (0..16).map(|i| (i as f32 - 7.3) * 1.7).collect();
    /// Checks one operation of two vectors, the second holding 2.5, against the scalar one.
    macro_rules! check {
        ($operation:ident, $scalar:expr) => {
            // SAFETY: the caller has the instruction set.
            let given = unsafe { map::<S>(&a, |v| S::$operation(v, S::splat(2.5))) };
            assert_eq!(given, a.iter().map($scalar).collect::<Vec<f32>>());
        };
    }
    check!(add, |a| a + 2.5);
    check!(sub, |a| a - 2.5);
    check!(mul, |a| a * 2.5);
    check!(div, |a| a / 2.5);
    check!(max, |a| a.max(2.5));
    // SAFETY: the caller has the instruction set.
    let (rounded, smaller, fused) = unsafe {
        let smaller = |v| S::where_less(v, S::splat(2.5), v, S::splat(2.5));
        let fused = |v| S::fma(v, S::splat(2.5), v);
        (map::<S>(&a, |v| S::round(v)), map::<S>(&a, smaller), map::<S>(&a, fused))
    };
    for (i, x) in a.iter().enumerate() {
        assert_eq!(rounded[i], x.round_ties_even());
        assert_eq!(smaller[i], x.min(2.5));
        let (exact, rounded_twice) = (x.mul_add(2.5, *x), x * 2.5 + x);
        assert!(fused[i] == exact || fused[i] == rounded_twice, "{x} * 2.5 + {x} = {}", fused[i]);
    }
}
