//! The collectives.

use super::MpiError;
use super::engine::Engine;
use super::exchange::{Exchange, Move};
use super::raw::{Comm, Kind, is_running};
use core::ffi::c_int;
use core::marker::PhantomData;
use core::ops::Range;
use microseq_core::{
    Agreement, Call, DEFAULT_TIMEOUT, Element, Host, KvMut, Notice, Occasion, Ranks, RanksError, Run, Runs,
    Step,
};
use mpi::environment::Universe;
use mpi::ffi::MPI_Comm;
use mpi::topology::SimpleCommunicator;
use mpi::traits::AsRaw;
use std::time::Duration;

/// A group of processes, as one of them sees it.
///
/// It stays on the thread that made it. Slots and gradient stores must be dense: packed, or keys and
/// values each for themselves.
///
/// Dropping it is not felt by the others until they wait for this rank.
pub struct MpiRanks<'u> {
    comm: Comm,
    engine: Engine,
    rank: usize,
    size: usize,
    timeout: Duration,
    /// Collectives so far.
    number: u32,
    failed: Option<MpiError>,
    /// What other ranks add to this rank's rows.
    addends: Vec<f32>,
    /// MPI runs for as long as this lives; and it may not leave its thread.
    universe: PhantomData<(&'u Universe, *const ())>,
}

impl<'u> MpiRanks<'u> {
    /// Makes a group of the processes of a communicator, and compares what they were given. Every rank of
    /// the communicator must do so.
    ///
    /// # Errors
    /// [`RanksError::Size`], [`RanksError::Differs`], [`RanksError::Absent`], [`RanksError::Stuck`];
    /// [`MpiError::Mpi`], [`MpiError::Thread`].
    pub fn new(
        universe: &'u Universe,
        communicator: &SimpleCommunicator,
        agreement: &Agreement,
    ) -> Result<Self, MpiError> {
        Self::with_timeout(universe, communicator, agreement, DEFAULT_TIMEOUT)
    }

    /// As [`new`](MpiRanks::new), waiting so long for other ranks, now and in every collective.
    ///
    /// # Errors
    /// As [`new`](MpiRanks::new).
    pub fn with_timeout(
        _universe: &'u Universe,
        communicator: &SimpleCommunicator,
        agreement: &Agreement,
        timeout: Duration,
    ) -> Result<Self, MpiError> {
        // SAFETY: MPI runs while the universe is borrowed, which is as long as the group lives; a
        // `SimpleCommunicator` is an intra-communicator.
        unsafe { Self::from_raw(communicator.as_raw(), agreement, timeout) }
    }

    /// As [`with_timeout`](MpiRanks::with_timeout), where somebody else initialised MPI.
    ///
    /// # Errors
    /// As [`new`](MpiRanks::new), and [`MpiError::NotRunning`].
    ///
    /// # Safety
    /// `communicator` is an intra-communicator, and MPI is not finalised while the group lives.
    pub unsafe fn from_raw(
        communicator: MPI_Comm,
        agreement: &Agreement,
        timeout: Duration,
    ) -> Result<Self, MpiError> {
        if !is_running() {
            return Err(MpiError::NotRunning);
        }
        // SAFETY: MPI runs; the caller vouches for the communicator.
        let comm = unsafe { Comm::duplicate(communicator, timeout) }?;
        let stuck = RanksError::Stuck { occasion: Occasion::Making, waited: timeout };
        let comm = comm.ok_or(stuck)?;
        let (rank, size) = comm.place()?;
        let mut ranks = Self {
            comm,
            engine: Engine::new()?,
            rank,
            size,
            timeout,
            number: 0,
            failed: None,
            addends: Vec::new(),
            universe: PhantomData,
        };
        // All must say so, whatever it is, or the others would wait.
        let size_agreed = ranks.check_size(agreement);
        // SAFETY: there are no moves.
        let met = unsafe { ranks.exchange(Notice::Making(*agreement), Vec::new(), || ()) };
        size_agreed.and(met).map(|()| ranks)
    }

    /// Waits so long for other ranks from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn check_size(&self, agreement: &Agreement) -> Result<(), MpiError> {
        let (agreed, size) = (agreement.ranks(), self.size);
        if agreed != size {
            return Err(RanksError::Size { agreed, size }.into());
        }
        Ok(())
    }

    fn check_alive(&self) -> Result<(), MpiError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if is_running() => Ok(()),
            None => Err(MpiError::NotRunning),
        }
    }

    /// Moves rows while `during` runs, and waits for them, also where it panics.
    ///
    /// # Safety
    /// As in [`Exchange::new`]; the memory is lent for the whole call.
    unsafe fn exchange<T>(
        &mut self,
        notice: Notice,
        moves: Vec<Move>,
        during: impl FnOnce() -> T,
    ) -> Result<T, MpiError> {
        // SAFETY: `awaited` waits for the outcome before this call returns, or unwinds.
        let exchange = unsafe { Exchange::new(self.comm, (self.rank, self.size), notice, moves) };
        self.engine.start(exchange);
        let mut awaited = Awaited {
            engine: &self.engine,
            timeout: self.timeout,
            failed: &mut self.failed,
            // Where `during` panics.
            unwound: RanksError::Left { rank: self.rank, occasion: notice.occasion() },
            over: false,
        };
        let done = during();
        awaited.wait().map(|()| done)
    }
}

/// An exchange that is waited for, whatever happens.
struct Awaited<'a> {
    engine: &'a Engine,
    timeout: Duration,
    failed: &'a mut Option<MpiError>,
    unwound: RanksError,
    over: bool,
}

impl Awaited<'_> {
    fn wait(&mut self) -> Result<(), MpiError> {
        self.over = true;
        let outcome = self.engine.wait(self.timeout);
        *self.failed = outcome.as_ref().err().cloned();
        outcome
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.over {
            // The others get their rows; this rank goes no further.
            let _ = self.wait();
            self.failed.get_or_insert(self.unwound.into());
        }
    }
}

impl Drop for MpiRanks<'_> {
    fn drop(&mut self) {
        if self.failed.is_none() {
            // SAFETY: all exchanges are over, without an error: no request is left. The group goes.
            unsafe { self.comm.free() };
        }
    }
}

impl Ranks for MpiRanks<'_> {
    type Space = Host;
    type Error = MpiError;

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
        rows: KvMut<'_, Host, E>,
        during: impl FnOnce() -> T,
    ) -> Result<T, MpiError> {
        self.check_alive()?;
        let call = Call::gather(layer, step, &rows)?.numbered(self.number);
        let runs = places(rows)?;
        if self.size == 1 {
            return Ok(during());
        }
        let mut moves = Moves::new(Kind::of::<E>());
        let own = self.rows_of(step, self.rank);
        for peer in self.peers() {
            for run in &runs {
                moves.send(peer, run.part(own.clone()))?;
                moves.receive(peer, run.part(self.rows_of(step, peer)))?;
            }
        }
        self.number = self.number.wrapping_add(1);
        // SAFETY: `rows` is lent for the call. Each rank's rows are its own: what is received lies apart
        // from what is sent, and from each other.
        unsafe { self.exchange(Notice::At(call), moves.0, during) }
    }

    fn reduce<T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, Host, f32>,
        during: impl FnOnce() -> T,
    ) -> Result<T, MpiError> {
        self.check_alive()?;
        let call = Call::reduce(layer, step, &rows)?.numbered(self.number);
        let runs = places(rows)?;
        if self.size == 1 {
            return Ok(during());
        }
        let own = self.rows_of(step, self.rank);
        let own_len = runs.iter().map(|run| run.part(own.clone()).1).sum::<usize>();
        // Not the group's while MPI may write it.
        let mut addends = core::mem::take(&mut self.addends);
        addends.resize(addends.len().max((self.size - 1) * own_len), 0.0);
        let addends_begin = addends.as_mut_ptr();

        let mut moves = Moves::new(Kind::of::<f32>());
        let mut at = 0;
        for peer in self.peers() {
            for run in &runs {
                moves.send(peer, run.part(self.rows_of(step, peer)))?;
                let len = run.part(own.clone()).1;
                moves.receive(peer, (addends_begin.wrapping_add(at), len))?;
                at += len;
            }
        }
        self.number = self.number.wrapping_add(1);
        // SAFETY: `rows` is lent for the call, and so are the addends, which are apart from them and hold
        // every other rank's `own_len`, one behind the other. Only other ranks' rows are sent.
        let done = unsafe { self.exchange(Notice::At(call), moves.0, during) }?;
        let mut begin = 0;
        for run in &runs {
            let (first, len) = run.part(own.clone());
            // SAFETY: these rows of the view were lent for the call, and nothing moves them any more.
            let sums = unsafe { core::slice::from_raw_parts_mut(first, len) };
            add_up(sums, self.rank, |peer| &addends[peer * own_len + begin..][..len], self.size);
            begin += len;
        }
        self.addends = addends;
        Ok(done)
    }
}

impl MpiRanks<'_> {
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.size).filter(move |&peer| peer != rank)
    }

    /// Rows of a rank, counted from the step's first.
    fn rows_of(&self, step: &Step<'_>, rank: usize) -> Range<usize> {
        let begin = step.write().start;
        let rows = step.write_share(rank, self.size).expect("one of the ranks");
        rows.start - begin..rows.end - begin
    }
}

/// Adds what all ranks have, in rank order. `sums` holds this rank's; `of` gives the others', which are
/// counted without it.
fn add_up<'a>(sums: &mut [f32], rank: usize, of: impl Fn(usize) -> &'a [f32], size: usize) {
    if rank == 0 {
        for peer in 1..size {
            sums.iter_mut().zip(of(peer - 1)).for_each(|(sum, addend)| *sum += addend);
        }
        return;
    }
    for (n, sum) in sums.iter_mut().enumerate() {
        let before = (1..rank).fold(of(0)[n], |sum, peer| sum + of(peer)[n]);
        *sum = (rank + 1..size).fold(before + *sum, |sum, peer| sum + of(peer - 1)[n]);
    }
}

/// A run of rows as a pointer.
struct Place<T> {
    first: *mut T,
    run: Run,
}

/// The runs of a view: one or two.
fn places<E: Element>(rows: KvMut<'_, Host, E>) -> Result<Vec<Place<E>>, RanksError> {
    let place = |(memory, run): (&mut [E], Run)| {
        // A view without rows may lie anywhere; its pointer is not used.
        Place { first: memory.as_mut_ptr().wrapping_add(run.offset), run }
    };
    Ok(match Runs::of(rows)? {
        Runs::One(memory, run) => vec![place((memory, run))],
        Runs::Two(both) => both.into_iter().map(place).collect(),
    })
}

impl<T> Place<T> {
    /// Some of the rows: the first element, and how many.
    fn part(&self, rows: Range<usize>) -> (*mut T, usize) {
        (self.first.wrapping_add(rows.start * self.run.row), rows.len() * self.run.row)
    }
}

/// Transfers of elements of one kind.
struct Moves(Vec<Move>, Kind);

impl Moves {
    fn new(kind: Kind) -> Self {
        Self(Vec::new(), kind)
    }

    fn send<T>(&mut self, peer: usize, rows: (*mut T, usize)) -> Result<(), RanksError> {
        self.push(peer, rows, false)
    }

    fn receive<T>(&mut self, peer: usize, rows: (*mut T, usize)) -> Result<(), RanksError> {
        self.push(peer, rows, true)
    }

    fn push<T>(
        &mut self,
        peer: usize,
        (rows, given): (*mut T, usize),
        receive: bool,
    ) -> Result<(), RanksError> {
        let limit = c_int::MAX as usize;
        let what = "elements of a rank's rows";
        let count = c_int::try_from(given).map_err(|_| RanksError::TooLarge { what, given, limit })?;
        if count > 0 {
            self.0.push(Move { peer, rows: rows.cast(), count, kind: self.1, receive });
        }
        Ok(())
    }
}
