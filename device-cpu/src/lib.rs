//! The CPU device of microseq: packed attention, forward and backward, on multithreaded SIMD.
//!
//! f32, f16 and bf16; every head_dim from 1 to 512; multi-head, grouped and multi-query; causal,
//! non-causal, window, scale and softcap. Sums are f32; products are too, but for bf16 on AVX512-BF16 and
//! AMX-BF16, which multiply bf16 (probabilities and their gradients are rounded for it).
//!
//! # What it promises
//!
//! - `out`, `lse` and `dq` of a document have the same bits whatever is packed around it, wherever it
//!   lies, however the sequence is cut into steps and ranks, and for any number of threads, as long as
//!   its values are finite.
//! - So have `dk` and `dv`: rows are summed up one by one, from the last to the first, in f32. The
//!   exception is bf16 on AVX512-BF16 and AMX-BF16, which sum up 2 and 32 rows at once, a row being a token
//!   and a query head of a group, counted from the document's begin: a cut into steps that parts so many
//!   may change the last bits. With four query heads to a K/V head, pairs are never parted, and 32 rows
//!   not by cuts at every 8th token of a document.
//! - The bits may differ from one instruction set to another.
//! - Exponentials (powers of 2) are at most 0.96 ulp off, 1.23 on the portable path, and logarithms 1.97: at every
//!   f32 that they are given, each of which has been compared with float64 (`ci/functions`).
//! - No call allocates: ask [`Device::scratch_bytes`](microseq_core::Device::scratch_bytes) and lend
//!   that much; [`ScratchBuffer`] keeps it for you. (rayon itself allocates now and then when a call
//!   enters its pool from outside; make calls inside of `ThreadPool::install` to avoid that.)
//!
//! # Scratch
//!
//! About a megabyte for each thread of the pool in which `scratch_bytes` is asked, whose calls can use as many: ask
//! inside of `ThreadPool::install` where calls are made inside, or give the device threads of its own. Backward, on
//! top of that, dq of documents that have more keys than fit a block (512 at head_dim 128) in f32: up to
//! `4 * heads * head_dim` bytes for each query row of the step. So shorter steps need less.
//!
//! # Where operands lie
//!
//! Anywhere, at the same bits. Rows that begin at multiples of 64 bytes, as far as head_dim allows, are the fastest:
//! documents of a few tokens take a fifth to a quarter less time than with rows across two cache lines, long
//! ones the same. In large pages (on Linux `MADV_HUGEPAGE`, or glibc's `glibc.malloc.hugetlb=1`) documents of a few
//! tokens take 4 to 12% less, those of some dozens 2 to 3%.
//!
//! # Instruction sets
//!
//! [`Isa::best`] is found at run time; [`Cpu::with_isa`] and, through [`Cpu::from_environment`], the
//! environment variable `MICROSEQ_ISA` choose another.
//!
//! The tile registers of AMX-BF16 are the operating system's to grant: Linux is asked, once, to let the process
//! use them; where it refuses, and on other systems, the CPU counts as one without.

mod call;
mod copy;
mod cpu;
mod device;
mod dispatch;
mod error;
mod isa;
mod kernel;
mod passes;
mod prepare;
mod schedule;
mod scratch;
mod simd;
mod strided;
mod threads;

pub use cpu::Cpu;
pub use error::CpuError;
pub use isa::Isa;
pub use prepare::Prepared;
pub use scratch::ScratchBuffer;
