//! A small trait of f32 vectors: what the kernels are written over, once.
//!
//! Each instruction set is a file that implements it. The kernels are `#[inline(always)]` and
//! generic; [`dispatch`](crate::dispatch) instantiates them inside functions that enable the
//! instruction set, which is where the intrinsics below become single instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(test, target_arch = "x86_64"))]
mod exhaustive;
mod math;
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use math::{exp2, ln, tanh};
pub(crate) use portable::Portable;

/// Asks for the cache line at `at` in the core's own cache, soon. Any address is fine.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching is in every x86-64 CPU and never faults.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The most lanes of any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// Vectors of [`LANES`](Simd::LANES) f32.
///
/// Every operation works on each lane alone, so what a lane computes never depends on its
/// neighbours: the invariants I1 and I2 rest on this.
///
/// # Safety
/// Calling any function needs a CPU that has the instruction set. Pointers need not be aligned; they
/// point to `LANES` elements to read or write.
pub(crate) trait Simd: Copy + 'static {
    /// A vector.
    type V: Copy;
    /// Lanes of a vector: divides 16.
    const LANES: usize;

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads a vector.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Writes a vector.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `a + b`
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a * 2^n` for an integer `n` from -150 to 128; 0 where that is below every number.
    unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V;
    /// `(m, e)` with `a = m * 2^e` and `m` from 1 to below 2, for normal numbers above 0.
    unsafe fn split2(a: Self::V) -> (Self::V, Self::V);
    /// `then` where `a < b`, else `otherwise`.
    unsafe fn where_less(a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// Reads binary16.
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// Writes binary16, rounded to nearest, ties to even.
    unsafe fn store_f16(to: *mut u16, v: Self::V);
    /// Reads bfloat16.
    unsafe fn load_bf16(from: *const u16) -> Self::V;
    /// Writes bfloat16, rounded to nearest, ties to even.
    unsafe fn store_bf16(to: *mut u16, v: Self::V);
    /// Joins the lanes of each of `LANES` vectors that follow each other, to their maximum or else their
    /// sum: vector `i` to lane `i`. The order is the same for every vector.
    #[inline(always)]
    unsafe fn join<const MAX: bool>(from: *const f32) -> Self::V {
        let mut turned = [0.0; MAX_LANES * MAX_LANES];
        // SAFETY: the caller gives a block, and the other one holds as much.
        unsafe {
            Self::transpose(from, Self::LANES, turned.as_mut_ptr(), Self::LANES);
            let mut joined = Self::load(turned.as_ptr());
            for lane in 1..Self::LANES {
                let next = Self::load(turned.as_ptr().add(lane * Self::LANES));
                joined = if MAX { Self::max(joined, next) } else { Self::add(joined, next) };
            }
            joined
        }
    }
    /// Writes the transpose of a block of `LANES` by `LANES`; strides in elements.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}
