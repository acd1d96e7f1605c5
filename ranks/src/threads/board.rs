//! The board on which ranks post where they are, and the parcels that they leave there.
//!
//! A rank posts for its collective `n` only after all have posted for `n - 1`, and comes to `n + 1` only
//! after all have posted for `n`. So no rank is more than one ahead of another, and two places for each
//! are enough: what was posted for `n` stays until all have done with it.

use microseq_core::{Notice, RanksError};
use std::any::Any;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A rank's parcel: a buffer of the depot, of whichever element type.
pub(super) type Parcel = RwLock<Option<Box<dyn Any + Send + Sync>>>;

pub(super) struct Board {
    ranks: Mutex<Vec<Posted>>,
    changed: Condvar,
    parcels: Vec<[Parcel; 2]>,
}

/// What a rank has posted.
#[derive(Clone, Default)]
struct Posted {
    count: u64,
    notices: [[u64; Notice::WORDS]; 2],
    left: bool,
}

impl Board {
    pub(super) fn new(ranks: usize) -> Self {
        Self {
            ranks: Mutex::new(vec![Posted::default(); ranks]),
            changed: Condvar::new(),
            parcels: (0..ranks).map(|_| Default::default()).collect(),
        }
    }

    pub(super) fn size(&self) -> usize {
        self.parcels.len()
    }

    /// Where a rank leaves its parcel for collective `number`.
    pub(super) fn parcel(&self, rank: usize, number: u64) -> &Parcel {
        &self.parcels[rank][place(number)]
    }

    /// Says that a rank has come to collective `number`, and its parcel is there.
    pub(super) fn post(&self, rank: usize, number: u64, notice: &Notice) {
        let posted = &mut self.lock()[rank];
        posted.notices[place(number)] = notice.words();
        posted.count = number + 1;
        self.changed.notify_all();
    }

    /// Says that a rank posts no more.
    pub(super) fn leave(&self, rank: usize) {
        self.lock()[rank].left = true;
        self.changed.notify_all();
    }

    /// Waits until all ranks have come to collective `number`, and compares what they say.
    pub(super) fn meet(&self, number: u64, here: &Notice, timeout: Duration) -> Result<(), RanksError> {
        let begin = Instant::now();
        let mut ranks = self.lock();
        loop {
            let Some(absent) = absent(&ranks, number, here)? else { return Ok(()) };
            let Some(left) = timeout.checked_sub(begin.elapsed()) else {
                return Err(RanksError::Absent { rank: absent, occasion: here.occasion(), waited: timeout });
            };
            let woken = self.changed.wait_timeout(ranks, left);
            ranks = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A panic leaves the list as it is: each change to it is one assignment after the other, and whoever
    /// panicked will be seen to leave.
    fn lock(&self) -> MutexGuard<'_, Vec<Posted>> {
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first rank that has not come to collective `number`, after comparing with those that have.
fn absent(ranks: &[Posted], number: u64, here: &Notice) -> Result<Option<usize>, RanksError> {
    for (rank, posted) in ranks.iter().enumerate().filter(|(_, posted)| posted.count > number) {
        here.compare(rank, &posted.notices[place(number)])?;
    }
    let mut missing = ranks.iter().enumerate().filter(|(_, posted)| posted.count <= number);
    match { missing.clone() }.find(|(_, posted)| posted.left) {
        Some((rank, _)) => Err(RanksError::Left { rank, occasion: here.occasion() }),
        None => Ok(missing.next().map(|(rank, _)| rank)),
    }
}

fn place(number: u64) -> usize {
    (number % 2) as usize
}
