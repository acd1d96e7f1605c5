//! How products are taken: of single f32, or of pairs of bf16.

use crate::simd::Simd;

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;
#[cfg(target_arch = "x86_64")]
use core::mem::transmute;

/// Multiply-adds of words.
///
/// # Safety
/// Calling any function needs a CPU that has the instruction set.
pub(crate) trait MultiplyAdd<S: Simd>: Copy + 'static {
    /// Elements of a word.
    const PER_WORD: usize;

    /// `c +` the products of the elements of `a` and `b`, lane by lane.
    unsafe fn multiply_add(a: S::V, b: S::V, c: S::V) -> S::V;
}

/// Multiply-adds of words, and how words are made.
///
/// # Safety
/// As for [`MultiplyAdd`].
pub(crate) trait Arithmetic<S: Simd>: MultiplyAdd<S> {
    /// Words of pairs: rounds `first` and `second`, lane by lane.
    unsafe fn pair(first: S::V, second: S::V) -> S::V;

    /// Words of neighbouring lanes: rounds the lanes of `low`, then those of `high`.
    unsafe fn neighbours(low: S::V, high: S::V) -> S::V;

    /// Words of pairs of elements of 16 bits, `LANES` of each.
    unsafe fn weave(first: *const u16, second: *const u16) -> S::V;

    /// Writes bfloat16, rounded to nearest, ties to even.
    unsafe fn store_bf16(to: *mut u16, v: S::V);
}

/// Words of one f32.
#[derive(Clone, Copy)]
pub(crate) struct Singles;

impl<S: Simd> MultiplyAdd<S> for Singles {
    const PER_WORD: usize = 1;

    #[inline(always)]
    unsafe fn multiply_add(a: S::V, b: S::V, c: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe { S::fma(a, b, c) }
    }
}

impl<S: Simd> Arithmetic<S> for Singles {
    unsafe fn pair(_: S::V, _: S::V) -> S::V {
        unreachable!("words of one element are not made of pairs")
    }

    unsafe fn neighbours(_: S::V, _: S::V) -> S::V {
        unreachable!("words of one element are not made of pairs")
    }

    unsafe fn weave(_: *const u16, _: *const u16) -> S::V {
        unreachable!("words of one element are not made of pairs")
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: S::V) {
        // SAFETY: the caller has the instruction set.
        unsafe { S::store_bf16(to, v) }
    }
}

/// Words of two bf16, multiplied by AVX512-BF16. Sums are f32; the instructions take numbers below the
/// normal ones for 0.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Bf16Pairs;

#[cfg(target_arch = "x86_64")]
impl MultiplyAdd<Avx512> for Bf16Pairs {
    const PER_WORD: usize = 2;

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller has AVX512-BF16.
        unsafe { _mm512_dpbf16_ps(c, bf16_words(a), bf16_words(b)) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Arithmetic<Avx512> for Bf16Pairs {
    #[inline(always)]
    unsafe fn pair(first: __m512, second: __m512) -> __m512 {
        // SAFETY: the caller has AVX512-BF16.
        unsafe {
            let (first, second) = (round(first), round(second));
            _mm512_castsi512_ps(_mm512_or_si512(first, _mm512_slli_epi32::<16>(second)))
        }
    }

    #[inline(always)]
    unsafe fn neighbours(low: __m512, high: __m512) -> __m512 {
        // SAFETY: the caller has AVX512-BF16; both types are 512 bits of any content.
        unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    #[inline(always)]
    unsafe fn weave(first: *const u16, second: *const u16) -> __m512 {
        // SAFETY: the caller has AVX-512 and gives sixteen elements of each.
        unsafe {
            let widened = |from: *const u16| _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            let second = _mm512_slli_epi32::<16>(widened(second));
            _mm512_castsi512_ps(_mm512_or_si512(widened(first), second))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m512) {
        // SAFETY: the caller has AVX512-BF16 and gives sixteen elements.
        unsafe { _mm256_storeu_si256(to.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))) }
    }
}

/// Half as many lanes: products alone.
#[cfg(target_arch = "x86_64")]
impl MultiplyAdd<Avx2> for Bf16Pairs {
    const PER_WORD: usize = 2;

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller has AVX512-BF16 and AVX512-VL; both types are 256 bits of any content.
        unsafe {
            let words = |words: __m256| transmute::<__m256, __m256bh>(words);
            _mm256_dpbf16_ps(c, words(a), words(b))
        }
    }
}

/// The same bits, as 32 bf16.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn bf16_words(words: __m512) -> __m512bh {
    // SAFETY: both types are 512 bits of any content.
    unsafe { transmute::<__m512, __m512bh>(words) }
}

/// Rounds to bf16, each in the lower half of its lane.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn round(v: __m512) -> __m512i {
    // SAFETY: the caller has AVX512-BF16; the types transmuted are 256 bits of any content.
    unsafe { _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))) }
}
