//! Loops of multiply-adds: enough independent chains to hide the latency, few enough for the registers.
//!
//! The operands come through `black_box`, so the compiler knows no value and can fold nothing; it may
//! not reorder floating-point arithmetic either. Factors below 1 keep the sums finite and normal.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{
    __m512bh, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi16,
    _mm512_set1_ps,
};
use core::array;
use core::hint::black_box;

/// Lanes of the portable path's vectors.
pub(super) const PORTABLE_LANES: usize = 4;

/// Runs `step` over all chains until so many instructions are done; returns how many that were.
macro_rules! chains {
    ($count:literal, $instructions:expr, $start:expr, $step:expr) => {{
        let mut chains: [_; $count] = array::from_fn(|chain| $start(black_box(chain as f32)));
        let rounds = $instructions.div_ceil($count);
        for _ in 0..rounds {
            for chain in &mut chains {
                *chain = $step(*chain);
            }
        }
        black_box(chains);
        rounds * $count
    }};
}

/// A multiplication and an addition of four lanes, as the portable kernels do them.
pub(super) fn portable(instructions: usize) -> usize {
    let [x, y] = black_box([[0.999f32; PORTABLE_LANES], [0.001; PORTABLE_LANES]]);
    let step = |chain: [f32; PORTABLE_LANES]| array::from_fn(|lane| chain[lane] * x[lane] + y[lane]);
    chains!(10, instructions, |start| [start; PORTABLE_LANES], step)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2(instructions: usize) -> usize {
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    chains!(12, instructions, |start| _mm256_set1_ps(start), |chain| _mm256_fmadd_ps(chain, x, y))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) fn avx512(instructions: usize) -> usize {
    let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    chains!(16, instructions, |start| _mm512_set1_ps(start), |chain| _mm512_fmadd_ps(chain, x, y))
}

/// The sums grow by a tiny product each time: they stay finite for longer than any reading.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn dot_bf16(instructions: usize) -> usize {
    // 0x3a83 is 0.001 in bf16.
    let [x, y] = black_box([0x3a83, 0x3a83]).map(|bits| {
        // SAFETY: both types are 512 bits of plain numbers.
        unsafe { core::mem::transmute::<_, __m512bh>(_mm512_set1_epi16(bits)) }
    });
    chains!(16, instructions, |start| _mm512_set1_ps(start), |chain| _mm512_dpbf16_ps(chain, x, y))
}
