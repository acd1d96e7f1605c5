//! Collectives under way: what the rank's own thread and the one that watches look after together.

use super::communicator::Communicator;
use super::error::NcclError;
use super::marks::Marks;
use super::peers;
use super::tags::{SLOTS, Tags};
use super::transfers::Transfer;
use crate::Cuda;
use crate::stream::Stream;
use core::mem::ManuallyDrop;
use microseq_core::{Notice, RanksError};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks of the thread that watches.
const WATCH: Duration = Duration::from_millis(50);

/// How long a rank that disagrees stays: its notice may not have reached all others yet, and would be lost
/// if it broke off at once.
const GRACE: Duration = Duration::from_millis(500);

/// How long a group that is done waits for the others to close it together.
const CLOSING: Duration = Duration::from_secs(5);

/// Between two looks of a rank that waits.
const NAP: Duration = Duration::from_micros(20);

/// What two threads look after.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A group's communicator and its collectives under way.
pub(crate) struct State {
    communicator: Communicator,
    transfers: Cuda,
    /// Kept for ever where the GPU may use it for ever.
    tags: ManuallyDrop<Tags>,
    /// For each slot of the tags.
    marks: Vec<Arc<Marks>>,
    under_way: VecDeque<Collective>,
    /// Collectives so far, and the making of the group.
    number: usize,
    pub(crate) timeout: Duration,
    failed: Option<NcclError>,
    stop: bool,
}

/// A collective that was given to the GPU.
struct Collective {
    notice: Notice,
    slot: usize,
    /// Whether all ranks' notices were.
    compared: bool,
    marks: Arc<Marks>,
    begun: Instant,
}

impl State {
    pub(crate) fn new(
        communicator: Communicator,
        transfers: &Cuda,
        timeout: Duration,
    ) -> Result<Self, NcclError> {
        let tags = Tags::new(transfers.stream(), communicator.rank, communicator.size)?;
        let marks = |_| Marks::new(transfers.stream()).map(Arc::new);
        Ok(Self {
            marks: (0..SLOTS).map(marks).collect::<Result<_, _>>()?,
            communicator,
            transfers: transfers.clone(),
            tags: ManuallyDrop::new(tags),
            under_way: VecDeque::new(),
            number: 0,
            timeout,
            failed: None,
            stop: false,
        })
    }

    /// Gives a collective to the GPU, its notice ahead of it; the transfers behind what was given to
    /// `compute`.
    ///
    /// # Safety
    /// As [`Communicator::put`].
    pub(crate) unsafe fn start(
        &mut self,
        notice: Notice,
        transfers: &[Transfer],
        compute: &Stream,
    ) -> Result<Arc<Marks>, NcclError> {
        self.wait_while(|state| state.under_way.len() == SLOTS)?;
        // SAFETY: the caller's promise.
        let started = unsafe { self.give(notice, transfers, compute) };
        started.map_err(|error| self.fail(error))
    }

    /// # Safety
    /// As [`Communicator::put`].
    unsafe fn give(
        &mut self,
        notice: Notice,
        transfers: &[Transfer],
        compute: &Stream,
    ) -> Result<Arc<Marks>, NcclError> {
        let (begun, slot) = (Instant::now(), self.number % SLOTS);
        let marks = self.marks[slot].clone();
        let (occasion, timeout) = (notice.occasion(), self.timeout);
        let stream = self.transfers.stream().clone();
        let _current = stream.context().enter()?;
        // Notices depend on nothing that is computed: they travel while that still goes on.
        // SAFETY: at most SLOTS collectives are under way, in order: the one that had the slot is done.
        let tag = unsafe { self.tags.send(slot, &notice.words()) }?;
        // SAFETY: the tags are ours, and last until the stream has come past this.
        unsafe { self.communicator.put(&[tag], stream.as_raw(), occasion, timeout) }?;
        self.tags.fetch(slot)?;
        stream.mark(&marks.told)?;
        let compared = !transfers.is_empty() && peers::write_directly();
        if compared {
            self.meet(&notice, slot, &marks, begun)?;
        }
        if !transfers.is_empty() {
            marks.meet(compute, &stream)?;
            // SAFETY: the caller vouches for them.
            unsafe { self.communicator.put(transfers, stream.as_raw(), occasion, timeout) }?;
        }
        stream.mark(&marks.done)?;
        self.number += 1;
        self.under_way.push_back(Collective { notice, slot, compared, marks: marks.clone(), begun });
        Ok(marks)
    }

    /// Waits for what all ranks say, and compares it.
    fn meet(&mut self, notice: &Notice, slot: usize, marks: &Marks, begun: Instant) -> Result<(), NcclError> {
        while !marks.told.is_done()? {
            self.communicator.state()?;
            if begun.elapsed() > self.timeout {
                return Err(RanksError::Stuck { occasion: notice.occasion(), waited: self.timeout }.into());
            }
            std::thread::yield_now();
        }
        self.compare_one(notice, slot)
    }

    /// Compares what all ranks say; it is on the host.
    fn compare_one(&self, notice: &Notice, slot: usize) -> Result<(), NcclError> {
        for rank in 0..self.communicator.size {
            // SAFETY: the caller has seen the event that came behind the slot's copies.
            let said = unsafe { self.tags.said(slot, rank) };
            notice.compare(rank, &said)?;
        }
        Ok(())
    }

    /// Looks at all that is under way: what ranks say, errors, the time.
    pub(crate) fn look(&mut self) -> Result<(), NcclError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let looked = self.look_closely();
        looked.map_err(|error| self.fail(error))
    }

    fn look_closely(&mut self) -> Result<(), NcclError> {
        self.compare()?;
        self.communicator.state()?;
        while let Some(first) = self.under_way.front() {
            if !first.compared || !first.marks.done.is_done()? {
                break;
            }
            self.under_way.pop_front();
        }
        match self.under_way.front() {
            Some(first) if first.begun.elapsed() > self.timeout => {
                let (occasion, waited) = (first.notice.occasion(), self.timeout);
                Err(RanksError::Stuck { occasion, waited }.into())
            }
            _ => Ok(()),
        }
    }

    /// Compares what ranks say, as far as it has come.
    fn compare(&mut self) -> Result<(), NcclError> {
        for n in 0..self.under_way.len() {
            let Collective { notice, slot, compared, marks, .. } = &mut self.under_way[n];
            if *compared {
                continue;
            }
            if !marks.told.is_done()? {
                break;
            }
            *compared = true;
            let (notice, slot) = (*notice, *slot);
            self.compare_one(&notice, slot)?;
        }
        Ok(())
    }

    /// Waits while something holds, for as long as nothing fails: the collectives' own time ends it.
    fn wait_while(&mut self, holds: impl Fn(&Self) -> bool) -> Result<(), NcclError> {
        self.look()?;
        while holds(self) {
            std::thread::sleep(NAP);
            self.look()?;
        }
        Ok(())
    }

    /// Breaks the group off. What the GPU waits for ends, if the communicator is ours.
    fn fail(&mut self, error: NcclError) -> NcclError {
        if is_disagreement(&error) {
            std::thread::sleep(GRACE.min(self.timeout));
        }
        self.communicator.abort();
        self.under_way.clear();
        self.failed.get_or_insert(error).clone()
    }
}

/// Whether the other ranks are about to find the same, if they are left the time.
fn is_disagreement(error: &NcclError) -> bool {
    let NcclError::Ranks(error) = error else { return false };
    matches!(error, RanksError::Differs { .. } | RanksError::OtherCall { .. } | RanksError::Garbled { .. })
}

impl Drop for State {
    fn drop(&mut self) {
        let stream = self.transfers.stream().clone();
        let Ok(_current) = stream.context().enter() else { return };
        match self.wait_while(|state| !state.under_way.is_empty()) {
            Ok(()) => self.communicator.close(self.timeout.min(CLOSING)),
            // What was under way may hang for ever, and use the tags when it ends.
            Err(_) if !self.communicator.is_owned() => return,
            Err(_) => {}
        }
        if stream.synchronise().is_ok() {
            // SAFETY: not used again; the stream that its copies are on is empty.
            unsafe { ManuallyDrop::drop(&mut self.tags) };
        }
    }
}

impl Shared {
    pub(crate) fn new(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// A panic between two looks leaves a state that can be looked at again.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is under way.
    pub(crate) fn finish(&self) -> Result<(), NcclError> {
        loop {
            {
                let mut state = self.lock();
                state.look()?;
                if state.under_way.is_empty() {
                    return Ok(());
                }
            }
            std::thread::sleep(NAP);
        }
    }

    /// Tells the thread that watches that there is something to watch.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Tells it to end.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Looks now and then while something is under way, so that it ends in time whoever else waits.
    pub(crate) fn watch(&self) {
        let mut state = self.lock();
        while !state.stop {
            // The error is kept for the rank.
            let _ = state.look();
            state = match state.under_way.is_empty() {
                true => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                false => self.changed.wait_timeout(state, WATCH).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}
