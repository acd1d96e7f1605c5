//! Ranks that are processes. `ci/ranks` runs this program under `mpirun` on 1 to 4 ranks; alone it is
//! one rank.
//!
//! Without arguments: every golden case, cuts of every kind, refusals and disagreements. Each rank checks
//! its own rows; a rank that finds something wrong panics, which ends all of them.
//!
//! With the name of a fault: rank 1 fails so in mid-step, and the others must report it and exit with
//! code 7. See `faults.rs`.

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod disagreements;
mod faults;

use microseq::dev::HostHarness;
use microseq::ranks::mpi::bindings::environment::Universe;
use microseq::ranks::mpi::bindings::topology::SimpleCommunicator;
use microseq::ranks::mpi::bindings::traits::Communicator;
use microseq::ranks::mpi::bindings::{self, Threading};
use microseq::ranks::mpi::{MpiError, MpiRanks};
use microseq::{Agreement, cpu::Cpu};
use std::process::ExitCode;
use std::time::Duration;

/// This process among the others.
struct Process {
    universe: Universe,
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    threads: Threading,
}

impl Process {
    fn new(threading: Threading) -> Self {
        let (universe, threads) =
            bindings::initialize_with_threading(threading).expect("MPI was not running");
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Self { universe, world, rank, size, threads }
    }

    /// A group of all processes. The timeout is long: nothing that should happen takes as long.
    fn group(&self, agreement: &Agreement) -> Result<MpiRanks<'_>, MpiError> {
        MpiRanks::with_timeout(&self.universe, &self.world, agreement, Duration::from_secs(60))
    }

    /// Waits for all processes, so that one check's timeouts do not begin in another's time.
    fn meet(&self) {
        use bindings::traits::CommunicatorCollectives;
        self.world.barrier();
    }
}

fn harness() -> HostHarness<Cpu> {
    HostHarness::new(Cpu::with_threads(1).expect("the calling thread"))
}

fn main() -> ExitCode {
    // What `cargo test` may add is not for this program.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    // Once with a thread that moves rows in the background, once without.
    let threading = match std::env::var("MICROSEQ_MPI_THREADS").as_deref() {
        Ok("single") => Threading::Single,
        _ => Threading::Multiple,
    };
    let process = Process::new(threading);
    let [fault] = &arguments[..] else {
        let passed = cases::all(&process) + disagreements::all(&process);
        if process.rank == 0 {
            let Process { size, threads, .. } = process;
            println!("{size} rank(s), MPI for {threads:?} threads");
            println!("mpi: {passed} passed, 0 failed");
        }
        return ExitCode::SUCCESS;
    };
    faults::run(process, fault)
}
