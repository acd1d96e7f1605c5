//! A packed sequence shared out over ranks: threads, processes over MPI, or GPUs over NCCL.
//!
//!     cargo run --release --example ranks
//!     cargo build --release --features mpi --example ranks
//!     mpirun -n 4 target/release/examples/ranks --transport mpi
//!     cargo run --release --features nccl --example ranks -- --transport nccl --ranks 2
//!
//! Each rank checks its own rows against what one rank gives alone, and prints a line. Start reading at
//! `rank.rs`: it is what a rank does, whatever the transport.

mod job;
mod rank;

#[path = "../common"]
mod common {
    pub(crate) mod exit;
    pub(crate) mod lengths;
}

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use common::lengths::Lengths;
use job::Job;
use microseq::cpu::Cpu;
use microseq::dev::{Harness, HostHarness, SpaceOf};
use microseq::ranks::{HostDepot, seats};
use microseq::{Alone, Ranks};
use std::process::ExitCode;

/// Run attention, forward and backward, over a packed sequence whose steps several ranks share.
#[derive(Parser)]
struct Args {
    /// How rows travel between ranks.
    #[arg(long, value_enum, default_value = "threads")]
    transport: Transport,
    /// Ranks; under mpirun, its -n says how many.
    #[arg(long, value_name = "N", default_value_t = 2)]
    ranks: usize,
    /// Document lengths, in tokens.
    #[arg(long, default_value = "700,13,0,1500,400,1387")]
    lengths: Lengths,
    /// Rows of a micro-sequence (step).
    #[arg(long, value_name = "ROWS", default_value_t = 1000)]
    micro_sequence_length: usize,
    /// Query heads.
    #[arg(long, value_name = "N", default_value_t = 4)]
    heads: usize,
    /// K/V heads; query heads must be a multiple.
    #[arg(long, value_name = "N", default_value_t = 2)]
    kv_heads: usize,
    /// Elements of a head.
    #[arg(long, value_name = "N", default_value_t = 64)]
    head_dim: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// Threads of this process, on the CPU.
    Threads,
    /// The processes that mpirun started, on the CPU (feature `mpi`).
    Mpi,
    /// Threads of this process, a GPU for each (feature `nccl`).
    Nccl,
}

fn main() -> ExitCode {
    common::exit::report(work(&Args::parse()))
}

fn work(args: &Args) -> Result<()> {
    let job = Job::new(args)?;
    match args.transport {
        Transport::Threads => threads(&job, args.ranks),
        #[cfg(feature = "mpi")]
        Transport::Mpi => mpi(&job),
        #[cfg(feature = "nccl")]
        Transport::Nccl => nccl(&job, args.ranks),
        #[allow(unreachable_patterns)]
        other => bail!("this program was built without the feature for {other:?}"),
    }
}

/// Runs a rank, then the whole job alone, and compares the rank's rows.
fn check<H: Harness, R: Ranks<Space = SpaceOf<H>>>(harness: &H, ranks: &mut R, job: &Job) -> Result<()> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let given = rank::run(harness, ranks, job)?;
    let expected = rank::run(harness, &mut Alone::new(), job)?;
    let comparison = job.compare(&given, &expected, rank, size)?;
    println!("rank {rank} of {size}: {comparison}");
    ensure!(comparison.same_bits, "out, lse and dq must not depend on the number of ranks");
    Ok(())
}

/// Runs ranks as threads.
fn each(ranks: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || work(rank))).collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("a rank does not panic"));
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

fn threads(job: &Job, ranks: usize) -> Result<()> {
    let seats: Vec<_> = seats(ranks)?.into_iter().map(|seat| std::sync::Mutex::new(Some(seat))).collect();
    each(ranks, |rank| {
        let seat = seats[rank].lock().expect("not poisoned").take().expect("taken once");
        let cpu = Cpu::with_threads(1)?;
        let mut group = seat.join(HostDepot(cpu.clone()), &job.agreement(ranks)?)?;
        check(&HostHarness::new(cpu), &mut group, job)
    })
}

#[cfg(feature = "mpi")]
fn mpi(job: &Job) -> Result<()> {
    use anyhow::Context;
    use microseq::ranks::mpi::{MpiRanks, bindings};
    // For several threads, so that rows travel in the background.
    let (universe, _) = bindings::initialize_with_threading(bindings::Threading::Multiple)
        .context("MPI was initialised already")?;
    let world = universe.world();
    let size = bindings::traits::Communicator::size(&world) as usize;
    let mut group = MpiRanks::new(&universe, &world, &job.agreement(size)?)?;
    check(&HostHarness::new(Cpu::with_threads(1)?), &mut group, job)
}

#[cfg(feature = "nccl")]
fn nccl(job: &Job, ranks: usize) -> Result<()> {
    use microseq::cuda::nccl::{Nccl, NcclRanks, Streams, UniqueId};
    use microseq::cuda::{Cuda, CudaHarness};
    let nccl = Nccl::load()?;
    // Other processes would be sent its bytes.
    let id = UniqueId::new(&nccl)?;
    each(ranks, |rank| {
        let compute = Cuda::new(rank)?;
        // So that NCCL finds room where attention fills the GPU.
        let transfers = compute.with_new_urgent_stream()?;
        let streams = Streams { compute: &compute, transfers: &transfers };
        let timeout = microseq::DEFAULT_TIMEOUT;
        let mut group = NcclRanks::new(&nccl, id, rank, &job.agreement(ranks)?, streams, timeout)?;
        check(&CudaHarness::new(compute), &mut group, job)
    })
}

#[cfg(test)]
mod tests;
