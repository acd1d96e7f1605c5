//! Vectors of sixteen lanes: AVX-512 F, BW, DQ and VL.

use super::Simd;
use core::arch::x86_64::*;

/// AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: the trait's contract.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_roundscale_ps::<ROUND>(a) }
    }

    #[inline(always)]
    unsafe fn scale2(a: __m512, n: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    unsafe fn split2(a: __m512) -> (__m512, __m512) {
        // SAFETY: the trait's contract.
        unsafe {
            let mantissa = _mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(a);
            (mantissa, _mm512_getexp_ps(a))
        }
    }

    #[inline(always)]
    unsafe fn where_less(a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, v: __m512) {
        // SAFETY: the trait's contract.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m512) {
        // SAFETY: the trait's contract.
        unsafe {
            let bits = _mm512_castps_si512(v);
            // Adding just under half, and the kept part's last bit, rounds to nearest even.
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_add_epi32(bits, up);
            // A NaN would be carried into an infinity: keep its upper half and make it quiet.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let kept = _mm512_mask_blend_epi32(nan, rounded, quiet);
            let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept));
            _mm256_storeu_si256(to.cast(), narrow);
        }
    }

    #[inline(always)]
    unsafe fn join<const MAX: bool>(from: *const f32) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe {
            // Two vectors become one, again and again: halves joined, quarters, pairs, single lanes.
            let mut v = [_mm512_setzero_ps(); 16];
            for (i, v) in v.iter_mut().enumerate() {
                *v = _mm512_loadu_ps(from.add(i * 16));
            }
            for i in 0..8 {
                let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(v[2 * i], v[2 * i + 1]);
                let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(v[2 * i], v[2 * i + 1]);
                v[i] = larger_or_sum::<MAX>(low, high);
            }
            for i in 0..4 {
                let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(v[2 * i], v[2 * i + 1]);
                let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(v[2 * i], v[2 * i + 1]);
                v[i] = larger_or_sum::<MAX>(even, odd);
            }
            for i in 0..2 {
                let low = _mm512_shuffle_ps::<0b01_00_01_00>(v[2 * i], v[2 * i + 1]);
                let high = _mm512_shuffle_ps::<0b11_10_11_10>(v[2 * i], v[2 * i + 1]);
                v[i] = larger_or_sum::<MAX>(low, high);
            }
            let even = _mm512_shuffle_ps::<0b10_00_10_00>(v[0], v[1]);
            let odd = _mm512_shuffle_ps::<0b11_01_11_01>(v[0], v[1]);
            // Lane 4 l + j holds vector 4 j + l.
            let places = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_ps(places, larger_or_sum::<MAX>(even, odd))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the trait's contract.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm512_loadu_ps(from.add(i * from_stride));
            }
            let t = transpose_registers(r);
            for (i, t) in t.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(i * to_stride), t);
            }
        }
    }
}

/// The larger of each lane, or else the sum.
#[inline(always)]
unsafe fn larger_or_sum<const MAX: bool>(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the callers have AVX-512 F.
    unsafe { if MAX { _mm512_max_ps(a, b) } else { _mm512_add_ps(a, b) } }
}

/// Exchanges ever larger blocks: single elements, pairs, quarters, halves.
#[inline(always)]
unsafe fn transpose_registers(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the callers have AVX-512 F.
    unsafe {
        let mut a = r;
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut b = a;
        for i in 0..4 {
            let (p, q, s, t) = (pd(a[4 * i]), pd(a[4 * i + 1]), pd(a[4 * i + 2]), pd(a[4 * i + 3]));
            b[4 * i] = ps(_mm512_unpacklo_pd(p, s));
            b[4 * i + 1] = ps(_mm512_unpackhi_pd(p, s));
            b[4 * i + 2] = ps(_mm512_unpacklo_pd(q, t));
            b[4 * i + 3] = ps(_mm512_unpackhi_pd(q, t));
        }
        // b[4 i + j] holds, in quarter l, column 4 l + j of rows 4 i to 4 i + 3.
        let mut c = b;
        for j in 0..4 {
            let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(b[j], b[4 + j]);
            let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(b[j], b[4 + j]);
            let low2 = _mm512_shuffle_f32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
            let high2 = _mm512_shuffle_f32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
            c[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(low, low2);
            c[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(low, low2);
            c[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(high, high2);
            c[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(high, high2);
        }
        c
    }
}

#[inline(always)]
unsafe fn pd(a: __m512) -> __m512d {
    // SAFETY: the callers have AVX-512 F; the cast changes no bits.
    unsafe { _mm512_castps_pd(a) }
}

#[inline(always)]
unsafe fn ps(a: __m512d) -> __m512 {
    // SAFETY: the callers have AVX-512 F; the cast changes no bits.
    unsafe { _mm512_castpd_ps(a) }
}
