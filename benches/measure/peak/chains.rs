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

/// Four sums that take turns, of zeros: the time does not depend on the numbers.
///
/// # Safety
/// The machine has AMX-BF16, and the operating system grants it.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn tile_bf16(instructions: usize) -> usize {
    /// Palette 1, and for each of eight registers 64 bytes in each of sixteen rows.
    #[repr(align(64))]
    struct Configuration([u8; 64]);
    static CONFIGURATION: Configuration = Configuration({
        let (mut bytes, mut register) = ([0; 64], 0);
        bytes[0] = 1;
        while register < 8 {
            (bytes[16 + 2 * register], bytes[48 + register]) = (64, 16);
            register += 1;
        }
        bytes
    });
    const SUMS: usize = 4;
    let rounds = instructions.div_ceil(SUMS);
    // SAFETY: the caller has the instructions; the configuration is a legal one and zeroes the registers,
    // which nobody else uses and which are given back; nothing else is touched.
    unsafe {
        core::arch::asm!(
            "ldtilecfg [{configuration}]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &raw const CONFIGURATION,
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly)
        );
    }
    rounds * SUMS
}
