//! What the machine could do at most: multiply-adds on registers alone, for the instruction that a
//! device's kernels use, on as many threads, in the same run.

mod chains;

use anyhow::{Result, ensure};
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use microseq::DType;
use microseq::cpu::Isa;
use std::thread;
use std::time::{Duration, Instant};

/// How long a thread computes for one reading.
const READING: Duration = Duration::from_millis(40);
/// Readings; the best counts, since everything that disturbs one makes it smaller.
const READINGS: usize = 5;
/// Cycles of a unit between two looks at the clock: a small part of a reading.
const CHUNK: usize = 1 << 18;

/// What a thread ran, and when.
struct Span {
    begin: Instant,
    end: Instant,
    instructions: usize,
}

/// Instructions a nanosecond over all spans; 0 of none.
fn rate(spans: &[Span]) -> f64 {
    let begin = spans.iter().map(|span| span.begin).min();
    let end = spans.iter().map(|span| span.end).max();
    let instructions: usize = spans.iter().map(|span| span.instructions).sum();
    begin.zip(end).map_or(0.0, |(begin, end)| instructions as f64 / (end - begin).as_nanos() as f64)
}

/// An instruction that multiplies and adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// f32 multiply-add, or a multiplication and an addition where the set has no fused one.
    F32(Isa),
    /// VDPBF16PS: 32 products of bf16, added in pairs to 16 sums in f32.
    DotBf16,
    /// TDPBF16PS: sixteen times sixteen sums in f32 of 32 products of bf16 each.
    TileBf16,
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32(isa) => write!(f, "{isa} f32 multiply-add"),
            Self::DotBf16 => f.write_str("VDPBF16PS"),
            Self::TileBf16 => f.write_str("TDPBF16PS"),
        }
    }
}

impl Instruction {
    /// What the CPU device multiplies with, on an instruction set, for elements of a type.
    pub(crate) fn of_cpu(isa: Isa, dtype: DType) -> Self {
        match (isa, dtype) {
            (Isa::Avx512Bf16, DType::Bf16) => Self::DotBf16,
            (Isa::AmxBf16, DType::Bf16) => Self::TileBf16,
            (Isa::Avx512Bf16 | Isa::AmxBf16, _) => Self::F32(Isa::Avx512),
            _ => Self::F32(isa),
        }
    }

    /// Those that this machine has, for an overview.
    pub(crate) fn available() -> Vec<Self> {
        let isas = Isa::ALL.into_iter().filter(|isa| isa.available());
        let instruction = |isa| match isa {
            Isa::Avx512Bf16 => Self::DotBf16,
            Isa::AmxBf16 => Self::TileBf16,
            _ => Self::F32(isa),
        };
        isas.map(instruction).collect()
    }

    /// GFLOP/s of so many threads at once: the best of some readings.
    ///
    /// # Errors
    /// A rate that no processor could have: the compiler removed the loop, or the machine was never ours.
    pub(crate) fn peak_gflops(self, threads: usize) -> Result<f64> {
        let mut best: f64 = 0.0;
        for _ in 0..READINGS {
            best = best.max(self.reading(threads));
        }
        // Four a cycle at 6 GHz is more than any processor issues; 0.01 is a thousandth of one.
        let issues = best * self.cycles() / threads as f64;
        ensure!(
            (0.01..24.0).contains(&issues),
            "{self}: {issues} issues a nanosecond and thread cannot be, expected 0.01 to 24"
        );
        Ok(best * self.flops())
    }

    /// Instructions a nanosecond of all threads at the same time, from the first one's begin to the last
    /// one's end: threads that share a core, or wait for one, count for no more than they do.
    fn reading(self, threads: usize) -> f64 {
        let arrived = AtomicUsize::new(0);
        let spans: Vec<Span> = thread::scope(|scope| {
            let run = || {
                // No barrier: to wake one thread after the other would take a part of the reading.
                arrived.fetch_add(1, Ordering::Relaxed);
                while arrived.load(Ordering::Relaxed) < threads {
                    thread::yield_now();
                }
                self.span()
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().expect("the loop does not panic")).collect()
        });
        rate(&spans)
    }

    /// Multiplications and additions of one instruction.
    fn flops(self) -> f64 {
        match self {
            Self::F32(Isa::Portable) => 2.0 * chains::PORTABLE_LANES as f64,
            Self::F32(Isa::Avx2) => 16.0,
            Self::F32(Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16) => 32.0,
            Self::DotBf16 => 64.0,
            Self::TileBf16 => 16.0 * 16.0 * 64.0,
        }
    }

    /// Cycles that one instruction keeps its unit busy, where that is more than one.
    fn cycles(self) -> f64 {
        match self {
            Self::F32(_) | Self::DotBf16 => 1.0,
            Self::TileBf16 => 16.0,
        }
    }

    /// One thread's part of a reading.
    fn span(self) -> Span {
        let begin = Instant::now();
        let mut instructions = 0;
        while begin.elapsed() < READING {
            instructions += self.run(CHUNK / self.cycles() as usize);
        }
        Span { begin, end: Instant::now(), instructions }
    }

    /// Runs at least so many instructions; returns how many.
    fn run(self, instructions: usize) -> usize {
        let isa = match self {
            Self::F32(isa) => isa,
            Self::DotBf16 => Isa::Avx512Bf16,
            Self::TileBf16 => Isa::AmxBf16,
        };
        assert!(isa.available(), "{isa} is not available");
        match self {
            Self::F32(Isa::Portable) => chains::portable(instructions),
            // SAFETY: the machine has AVX2 and FMA, by the assertion above.
            #[cfg(target_arch = "x86_64")]
            Self::F32(Isa::Avx2) => unsafe { chains::avx2(instructions) },
            // SAFETY: the machine has AVX-512 F, by the assertion above.
            #[cfg(target_arch = "x86_64")]
            Self::F32(Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16) => unsafe {
                chains::avx512(instructions)
            },
            // SAFETY: the machine has AVX-512 F and BF16, by the assertion above.
            #[cfg(target_arch = "x86_64")]
            Self::DotBf16 => unsafe { chains::dot_bf16(instructions) },
            // SAFETY: the machine has AMX-BF16 and grants it, by the assertion above.
            #[cfg(target_arch = "x86_64")]
            Self::TileBf16 => unsafe { chains::tile_bf16(instructions) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only x86-64 has {self}"),
        }
    }
}
