//! The collectives.

use super::board::Board;
use super::depot::{Depot, ErrorOf, SpaceOf};
use super::error::ThreadsError;
use core::ops::Range;
use microseq_core::{
    Accumulate, Agreement, Call, DEFAULT_TIMEOUT, Device, Element, Gather, KvMut, KvRef, Layout, Notice,
    Occasion, Ranks, RanksError, RowsMut, RowsRef, Step, StepError, ViewError,
};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Makes a group's seats, one for each rank in order, for the threads to take along.
///
/// # Errors
/// [`StepError::ZeroRanks`].
pub fn seats(ranks: usize) -> Result<Vec<Seat>, StepError> {
    if ranks == 0 {
        return Err(StepError::ZeroRanks);
    }
    let board = Arc::new(Board::new(ranks));
    let seat = |rank| Seat { place: Place { board: board.clone(), rank }, timeout: DEFAULT_TIMEOUT };
    Ok((0..ranks).map(seat).collect())
}

/// A rank's place in a group that is not made yet. Dropping it leaves the group.
pub struct Seat {
    place: Place,
    timeout: Duration,
}

impl Seat {
    /// The rank.
    pub fn rank(&self) -> usize {
        self.place.rank
    }

    /// Waits so long for other ranks, now and in every collective.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes the seat: waits for the other ranks and compares what they were given.
    ///
    /// # Errors
    /// [`RanksError::Size`], [`RanksError::Differs`], [`RanksError::Absent`], [`RanksError::Left`].
    pub fn join<D: Depot>(self, depot: D, agreement: &Agreement) -> Result<ThreadRanks<D>, RanksError> {
        let Self { place, timeout } = self;
        let (agreed, size) = (agreement.ranks(), place.board.size());
        if agreed != size {
            return Err(RanksError::Size { agreed, size });
        }
        let notice = Notice::Making(*agreement);
        place.board.post(place.rank, 0, &notice);
        place.board.meet(0, &notice, timeout)?;
        Ok(ThreadRanks { place, depot, timeout, number: 1, failed: None })
    }
}

/// A rank's place at the board, left when it is dropped.
struct Place {
    board: Arc<Board>,
    rank: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.board.leave(self.rank);
    }
}

/// A group of threads, as one of them sees it.
///
/// Each rank may be on a device of its own, if the devices reach each other's memory. While `during`
/// runs, the other ranks can already read what this one gave.
///
/// ```
/// use microseq_core::dev::Reference; // or any other device on the host's memory
/// use microseq_core::{Agreement, Attention, DType, KvMut, Plan, Ranks, RowsMut};
/// use microseq_ranks::{HostDepot, seats};
///
/// let (plan, attention) = (Plan::new(&[3, 5], 8).unwrap(), Attention::new(1, 1, 2).unwrap());
/// let agreement = Agreement::new(&plan, &attention, DType::F32, 2);
/// std::thread::scope(|scope| {
///     for seat in seats(2).unwrap() {
///         scope.spawn(move || {
///             let mut ranks = seat.join(HostDepot(Reference), &agreement).unwrap();
///             let step = plan.steps().next().unwrap();
///             // The slot's rows, 4 elements each; this rank fills in its own.
///             let (own, mut slot) = (step.write_share(ranks.rank(), 2).unwrap(), vec![0.0; 8 * 4]);
///             slot[own.start * 4..own.end * 4].fill(ranks.rank() as f32);
///             let rows = RowsMut::of_slice(&mut slot, attention.kv_layout(8)).unwrap();
///             ranks.gather(0, &step, KvMut::packed(rows).unwrap(), || ()).unwrap();
///             assert_eq!((slot[0], slot[31]), (0.0, 1.0));
///         });
///     }
/// });
/// ```
pub struct ThreadRanks<D> {
    place: Place,
    depot: D,
    timeout: Duration,
    /// The making of the group was number 0.
    number: u64,
    failed: Option<RanksError>,
}

impl<D: Depot> Ranks for ThreadRanks<D> {
    type Space = SpaceOf<D>;
    type Error = ThreadsError<ErrorOf<D>>;

    fn rank(&self) -> usize {
        self.place.rank
    }

    fn size(&self) -> usize {
        self.place.board.size()
    }

    fn gather<E: Element, T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, SpaceOf<D>, E>,
        during: impl FnOnce() -> T,
    ) -> Result<T, Self::Error> {
        let call = Call::gather(layer, step, &rows)?;
        self.exchange(call, step, rows, during, |exchange, rows| exchange.gather(rows))
    }

    fn reduce<T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, SpaceOf<D>, f32>,
        during: impl FnOnce() -> T,
    ) -> Result<T, Self::Error> {
        let call = Call::reduce(layer, step, &rows)?;
        self.exchange(call, step, rows, during, |exchange, rows| exchange.reduce(rows))
    }
}

impl<D: Depot> ThreadRanks<D> {
    /// Waits so long for other ranks from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Leaves a parcel, lets `during` run, waits for the others' parcels and takes from them.
    fn exchange<E: Element, T>(
        &mut self,
        call: Call,
        step: &Step<'_>,
        rows: KvMut<'_, SpaceOf<D>, E>,
        during: impl FnOnce() -> T,
        take: Take<D, E>,
    ) -> Result<T, ThreadsError<ErrorOf<D>>> {
        if let Some(failed) = self.failed {
            return Err(failed.into());
        }
        if self.size() == 1 {
            return Ok(during());
        }
        let number = self.number;
        let call = call.numbered(number as u32);
        // Until all went well; also where `during` panics.
        let left = RanksError::Left { rank: self.rank(), occasion: Occasion::Call(call) };
        let mut breach = Breach { place: &self.place, failed: &mut self.failed, error: left };
        let exchange = Exchange { place: &self.place, depot: &self.depot, step, number, call };

        exchange.leave_parcel(rows.freeze()).map_err(ThreadsError::Device)?;
        let notice = Notice::At(call);
        self.place.board.post(self.place.rank, number, &notice);
        let done = during();
        if let Err(error) = self.place.board.meet(number, &notice, self.timeout) {
            breach.error = error;
            return Err(error.into());
        }
        take(&exchange, rows).map_err(ThreadsError::Device)?;
        core::mem::forget(breach);
        self.number += 1;
        Ok(done)
    }
}

type DeviceResult<T, D> = Result<T, ErrorOf<D>>;

/// How a collective takes from the parcels.
type Take<D, E> = fn(&Exchange<'_, D>, KvMut<'_, SpaceOf<D>, E>) -> DeviceResult<(), D>;

/// Breaks the group off when dropped: no later collective can be right.
struct Breach<'a> {
    place: &'a Place,
    failed: &'a mut Option<RanksError>,
    error: RanksError,
}

impl Drop for Breach<'_> {
    fn drop(&mut self) {
        *self.failed = Some(self.error);
        self.place.board.leave(self.place.rank);
    }
}

/// A buffer and how many elements it holds.
struct Held<B> {
    buffer: B,
    elements: usize,
}

/// One collective under way.
struct Exchange<'a, D> {
    place: &'a Place,
    depot: &'a D,
    step: &'a Step<'a>,
    number: u64,
    call: Call,
}

impl<D: Depot> Exchange<'_, D> {
    /// Rows of a rank, counted from the step's first.
    fn rows_of(&self, rank: usize) -> Range<usize> {
        let begin = self.step.write().start;
        let rows = self.step.write_share(rank, self.place.board.size()).expect("one of the ranks");
        rows.start - begin..rows.end - begin
    }

    /// Rows that are in the parcels: of a gather, the rank's own; of a reduce, all.
    fn parcel_rows(&self, rank: usize) -> Range<usize> {
        match self.call.collective {
            microseq_core::Collective::Gather => self.rows_of(rank),
            microseq_core::Collective::Reduce => 0..self.step.write().len(),
        }
    }

    /// Parcels are packed and dense.
    fn parcel_layout(&self, rows: usize) -> Layout {
        Layout::dense(rows, 2 * self.call.kv_heads as usize, self.call.head_dim as usize)
    }

    /// Copies what the others need.
    fn leave_parcel<E: Element>(&self, rows: KvRef<'_, SpaceOf<D>, E>) -> DeviceResult<(), D> {
        let given = self.parcel_rows(self.place.rank);
        let layout = self.parcel_layout(given.len());
        let elements = given.len() * layout.row_stride();
        let parcel = self.place.board.parcel(self.place.rank, self.number);
        let mut parcel = parcel.write().unwrap_or_else(PoisonError::into_inner);
        let held = parcel.as_mut().and_then(|parcel| parcel.downcast_mut::<Held<D::Buffer<E>>>());
        let held = match held {
            Some(held) if held.elements >= elements => held,
            _ => {
                let held: Held<D::Buffer<E>> = Held { buffer: self.depot.allocate(elements)?, elements };
                let fresh = parcel.insert(Box::new(held));
                fresh.downcast_mut().expect("put in just now")
            }
        };
        let from = [fits(rows.narrow(given))];
        let into = fits(RowsMut::new(self.depot.view_mut(&mut held.buffer), layout));
        self.depot.device().gather_into(Gather { from: &from, into: fits(KvMut::packed(into)) })?;
        self.depot.synchronise()
    }

    /// Lends rows of a rank's parcel, in a view of their own, until the device has read them.
    fn open_parcel<E: Element>(
        &self,
        rank: usize,
        rows: Range<usize>,
        read: impl FnOnce(KvRef<'_, SpaceOf<D>, E>) -> DeviceResult<(), D>,
    ) -> DeviceResult<(), D> {
        let parcel = self.place.board.parcel(rank, self.number);
        let parcel = parcel.read().unwrap_or_else(PoisonError::into_inner);
        let held = parcel.as_ref().and_then(|parcel| parcel.downcast_ref::<Held<D::Buffer<E>>>());
        let held = held.expect("a rank leaves its parcel before it posts, of the type that was compared");
        let layout = self.parcel_layout(self.parcel_rows(rank).len());
        let parcel = fits(RowsRef::new(self.depot.view(&held.buffer), layout));
        read(fits(fits(KvRef::packed(parcel)).narrow(rows)))?;
        self.depot.synchronise()
    }

    /// Copies the others' rows.
    fn gather<E: Element>(&self, mut rows: KvMut<'_, SpaceOf<D>, E>) -> DeviceResult<(), D> {
        for rank in (0..self.place.board.size()).filter(|&rank| rank != self.place.rank) {
            let theirs = self.rows_of(rank);
            let mut into = fits(rows.reborrow().narrow(theirs.clone()));
            self.open_parcel(rank, 0..theirs.len(), |from| {
                self.depot.device().gather_into(Gather { from: &[from], into: into.reborrow() })
            })?;
        }
        Ok(())
    }

    /// Sums up this rank's rows, rank 0's first. Its own are in its parcel.
    fn reduce(&self, rows: KvMut<'_, SpaceOf<D>, f32>) -> DeviceResult<(), D> {
        let own = self.rows_of(self.place.rank);
        let mut sum = fits(rows.narrow(own.clone()));
        for rank in 0..self.place.board.size() {
            let device = self.depot.device();
            self.open_parcel(rank, own.clone(), |from| match rank {
                0 => device.gather_into(Gather { from: &[from], into: sum.reborrow() }),
                _ => device.accumulate(Accumulate { from: from.shorten(), into: sum.reborrow() }),
            })?;
        }
        Ok(())
    }
}

/// Views over rows whose shape was compared among the ranks, and buffers made for them.
fn fits<T>(view: Result<T, ViewError>) -> T {
    view.unwrap_or_else(|error| unreachable!("made to fit: {error}"))
}
