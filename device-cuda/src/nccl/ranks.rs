//! The collectives.

use super::api::{Nccl, UniqueId};
use super::communicator::Communicator;
use super::error::NcclError;
use super::marks::Marks;
use super::peers;
use super::shared::{Shared, State};
use super::transfers::{Rows, Shares, Transfer};
use crate::Cuda;
use crate::memory::{DeviceMemory, DeviceMut};
use core::ffi::c_void;
use microseq_core::{Agreement, Call, Element, KvMut, Notice, Ranks, RanksError, Run, Runs, Step, StepError};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The streams of a group. Both of one GPU; they may be the same.
#[derive(Clone, Copy)]
pub struct Streams<'a> {
    /// What the rank computes on.
    pub compute: &'a Cuda,
    /// What rows are moved on. With a stream of its own, transfers overlap with what is computed.
    pub transfers: &'a Cuda,
}

/// A group of GPUs, as one of them sees it.
///
/// Slots and gradient stores must be dense: packed, or keys and values each for themselves. Each rank has
/// a GPU of its own; ranks may be threads of one process or processes, on one host or many.
pub struct NcclRanks {
    shared: Arc<Shared>,
    watching: Option<JoinHandle<()>>,
    compute: Cuda,
    transfers: Cuda,
    rank: usize,
    size: usize,
    /// Collectives so far.
    number: u32,
    through_nccl: bool,
    /// The current collective's, kept for their memory.
    shares: Shares,
    moves: Vec<Transfer>,
}

impl NcclRanks {
    /// Makes a group of the ranks that were given the same id, as many as are agreed on, and compares what
    /// they were given. Waits so long for other ranks, now and in every collective; the time of a
    /// collective begins when it is given to the GPU, which may have other work before it.
    ///
    /// # Errors
    /// [`RanksError::Step`] for a rank outside the group, [`RanksError::Differs`], [`RanksError::Stuck`];
    /// [`NcclError::AnotherDevice`], [`NcclError::Nccl`], [`NcclError::Cuda`], [`NcclError::Thread`].
    pub fn new(
        nccl: &Nccl,
        id: UniqueId,
        rank: usize,
        agreement: &Agreement,
        streams: Streams<'_>,
        timeout: Duration,
    ) -> Result<Self, NcclError> {
        let ranks = agreement.ranks();
        if rank >= ranks {
            let error =
                if ranks == 0 { StepError::ZeroRanks } else { StepError::RankOutOfRange { rank, ranks } };
            return Err(RanksError::from(error).into());
        }
        check_streams(&streams)?;
        peers::introduce(ordinal(streams.compute))?;
        let communicator = {
            let _current = streams.compute.stream().context().enter()?;
            Communicator::new(nccl, id, (rank, ranks), timeout)?
        };
        Self::of(communicator, agreement, streams, timeout)
    }

    /// As [`new`](NcclRanks::new), with a communicator of the runtime's own. If the group breaks off, ending
    /// what hangs on the GPU is the runtime's to do, with `ncclCommAbort`; if the communicator blocks, so
    /// may the first collectives, without end.
    ///
    /// # Errors
    /// As [`new`](NcclRanks::new), and [`RanksError::Size`].
    ///
    /// # Safety
    /// `communicator` is an `ncclComm_t` of the same library. It lives, and nothing else uses it, until the
    /// group is dropped.
    pub unsafe fn from_raw(
        nccl: &Nccl,
        communicator: *mut c_void,
        agreement: &Agreement,
        streams: Streams<'_>,
        timeout: Duration,
    ) -> Result<Self, NcclError> {
        check_streams(&streams)?;
        peers::introduce(ordinal(streams.compute))?;
        // SAFETY: the caller's promise.
        let communicator = unsafe { Communicator::borrowed(nccl, communicator) }?;
        Self::of(communicator, agreement, streams, timeout)
    }

    fn of(
        communicator: Communicator,
        agreement: &Agreement,
        streams: Streams<'_>,
        timeout: Duration,
    ) -> Result<Self, NcclError> {
        let Communicator { rank, size, .. } = communicator;
        let (given, expected) = (communicator.device()?, ordinal(streams.compute));
        if given != expected {
            return Err(NcclError::AnotherDevice { what: "the communicator", given, expected });
        }
        let shared = Shared::new(State::new(communicator, streams.transfers, timeout)?);
        let mut ranks = Self {
            shared,
            watching: None,
            compute: streams.compute.clone(),
            transfers: streams.transfers.clone(),
            rank,
            size,
            number: 0,
            through_nccl: false,
            shares: Shares { rank, rows: Vec::new() },
            moves: Vec::new(),
        };
        // SAFETY: nothing is moved but the notices.
        unsafe { ranks.shared.lock().start(Notice::Making(*agreement), &[], streams.compute.stream()) }?;
        ranks.shared.finish()?;
        let agreed = agreement.ranks();
        if agreed != size {
            return Err(RanksError::Size { agreed, size }.into());
        }
        let shared = ranks.shared.clone();
        let watching = thread::Builder::new().name("microseq-nccl".into()).spawn(move || shared.watch());
        ranks.watching = Some(watching.map_err(|error| NcclError::Thread { reason: error.to_string() })?);
        Ok(ranks)
    }

    /// Waits so long for other ranks from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.shared.lock().timeout = timeout;
    }

    /// Makes a group of one rank call NCCL as others do, for tests on one GPU.
    #[cfg(feature = "dev")]
    #[must_use]
    pub fn through_nccl(mut self) -> Self {
        self.through_nccl = true;
        self
    }

    /// Shares out the rows of a step.
    fn share_out(&mut self, step: &Step<'_>) {
        let begin = step.write().start;
        let rows = |rank| {
            let rows = step.write_share(rank, self.size).expect("one of the ranks");
            rows.start - begin..rows.end - begin
        };
        self.shares.rows.clear();
        self.shares.rows.extend((0..self.size).map(rows));
    }

    fn exchange<E: Element, T>(
        &mut self,
        call: Call,
        step: &Step<'_>,
        rows: KvMut<'_, DeviceMemory, E>,
        during: impl FnOnce() -> T,
        collective: fn(&Rows, &Shares, &mut Vec<Transfer>),
    ) -> Result<T, NcclError> {
        let runs = Runs::of(rows)?;
        if self.size == 1 && !self.through_nccl {
            return Ok(during());
        }
        self.share_out(step);
        let (shares, moves) = (&self.shares, &mut self.moves);
        moves.clear();
        match &runs {
            Runs::One(memory, run) => collective(&rows_of(memory, run), shares, moves),
            Runs::Two(both) => {
                both.iter().for_each(|(memory, run)| collective(&rows_of(memory, run), shares, moves));
            }
        }
        // Dropped behind `during`, whatever happens: later work on the stream comes behind the rows.
        let mut ordered = Ordered { compute: &self.compute, transfers: &self.transfers, marks: None };
        let notice = Notice::At(call.numbered(self.number));
        self.number = self.number.wrapping_add(1);
        // SAFETY: the views' memory lasts until the work that was given them is done on the device
        // (`DeviceMut::from_raw`), with which later work is ordered; the stream is the communicator's GPU's.
        let started = unsafe { self.shared.lock().start(notice, &self.moves, self.compute.stream()) };
        self.shared.wake();
        ordered.marks = Some(started?);
        let done = during();
        self.shared.lock().look().map(|()| done)
    }
}

/// Makes the stream that is computed on wait for what is on the other, when dropped.
struct Ordered<'a> {
    compute: &'a Cuda,
    transfers: &'a Cuda,
    /// The collective's; without, it was not started, or not as a whole.
    marks: Option<Arc<Marks>>,
}

impl Drop for Ordered<'_> {
    fn drop(&mut self) {
        let (compute, transfers) = (self.compute.stream(), self.transfers.stream());
        let ordered = match &self.marks {
            Some(marks) => compute.wait(&marks.done),
            None => transfers.record().and_then(|event| compute.wait(&event)),
        };
        if ordered.is_err() {
            // The driver is at fault, and nothing can be ordered any more: then in time.
            let _ = self.transfers.stream().synchronise();
        }
    }
}

impl Drop for NcclRanks {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(watching) = self.watching.take() {
            // It does not panic; if it did, there is nothing left to do.
            let _ = watching.join();
        }
    }
}

impl Ranks for NcclRanks {
    type Space = DeviceMemory;
    type Error = NcclError;

    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather<E: Element, T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, DeviceMemory, E>,
        during: impl FnOnce() -> T,
    ) -> Result<T, NcclError> {
        let call = Call::gather(layer, step, &rows)?;
        self.exchange(call, step, rows, during, Rows::gather)
    }

    fn reduce<T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, DeviceMemory, f32>,
        during: impl FnOnce() -> T,
    ) -> Result<T, NcclError> {
        let call = Call::reduce(layer, step, &rows)?;
        self.exchange(call, step, rows, during, Rows::reduce)
    }

    fn finish(&mut self) -> Result<(), NcclError> {
        self.shared.finish()
    }
}

fn rows_of<E: Element>(memory: &DeviceMut<'_, E>, run: &Run) -> Rows {
    let address = memory.address().wrapping_add((run.offset * size_of::<E>()) as u64);
    Rows { address, bytes: run.row * size_of::<E>() }
}

fn ordinal(cuda: &Cuda) -> usize {
    cuda.stream().context().ordinal
}

fn check_streams(streams: &Streams<'_>) -> Result<(), NcclError> {
    let (given, expected) = (ordinal(streams.transfers), ordinal(streams.compute));
    if given != expected {
        return Err(NcclError::AnotherDevice { what: "the stream for transfers", given, expected });
    }
    Ok(())
}
