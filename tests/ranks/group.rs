//! Threads as ranks.

use microseq::cpu::{Cpu, Isa};
use microseq::dev::HostHarness;
use microseq::ranks::{HostDepot, Seat, ThreadRanks, ThreadsError, seats};
use microseq::{Agreement, RanksError};

/// A rank in these tests.
pub(crate) type Rank = ThreadRanks<HostDepot<Cpu>>;

/// Its errors.
pub(crate) type Error = ThreadsError<microseq::cpu::CpuError>;

/// The device that each rank has: one thread.
pub(crate) fn cpu(isa: Isa) -> Cpu {
    Cpu::with_threads(1).and_then(|cpu| cpu.with_isa(isa)).expect("an instruction set of this machine")
}

/// Such a device as the drivers take it.
pub(crate) fn harness(isa: Isa) -> HostHarness<Cpu> {
    HostHarness::new(cpu(isa))
}

/// Takes a seat.
pub(crate) fn join(seat: Seat, agreement: &Agreement) -> Result<Rank, RanksError> {
    seat.join(HostDepot(cpu(Isa::best())), agreement)
}

/// Runs ranks as threads; what they return, in rank order.
pub(crate) fn each_rank<T: Send>(ranks: usize, work: impl Fn(Seat) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            seats(ranks).unwrap().into_iter().map(|seat| scope.spawn(move || work(seat))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect()
    })
}
