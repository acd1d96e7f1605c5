//! Vectors of four lanes in plain Rust, which the compiler maps to what its target has.

use super::Simd;
use microseq_core::{Element, bf16, f16};

/// The instruction set of the compiler's target.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 4;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    core::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller gives four elements; arrays of f32 need no more alignment than f32.
        unsafe { from.cast::<Self::V>().read() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { to.cast::<Self::V>().write(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a slow call.
        core::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no room for a fraction; the operands here are far below that.
        const SHIFT: f32 = 12_582_912.0;
        a.map(|a| (a + SHIFT) - SHIFT)
    }

    #[inline(always)]
    unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V {
        zip(a, n, |a, n| {
            // Half the exponent twice: one factor alone could be too large or too small for an f32.
            let n = n as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
            a * power(half) * power(n - half)
        })
    }

    #[inline(always)]
    unsafe fn split2(a: Self::V) -> (Self::V, Self::V) {
        let mantissa = a.map(|a| f32::from_bits(a.to_bits() & 0x007f_ffff | 0x3f80_0000));
        (mantissa, a.map(|a| ((a.to_bits() >> 23) as i32 - 127) as f32))
    }

    #[inline(always)]
    unsafe fn where_less(a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        core::array::from_fn(|lane| if a[lane] < b[lane] { then[lane] } else { otherwise[lane] })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::V {
        // SAFETY: the caller gives four elements.
        core::array::from_fn(|lane| f16::from_bits(unsafe { *from.add(lane) }).to_f32())
    }

    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, v: Self::V) {
        for (lane, x) in v.into_iter().enumerate() {
            // SAFETY: the caller gives four elements.
            unsafe { *to.add(lane) = f16::from_f32(x).to_bits() }
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::V {
        // SAFETY: the caller gives four elements.
        core::array::from_fn(|lane| bf16::from_bits(unsafe { *from.add(lane) }).to_f32())
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Self::V) {
        for (lane, x) in v.into_iter().enumerate() {
            // SAFETY: the caller gives four elements.
            unsafe { *to.add(lane) = <bf16 as Element>::from_f32(x).to_bits() }
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..LANES {
            for column in 0..LANES {
                // SAFETY: the caller gives a block of four rows of four elements on either side.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) }
            }
        }
    }
}
