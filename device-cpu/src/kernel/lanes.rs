//! Keys in lanes: which of them a row sees, and sums across them.

use super::products::Products;
use super::sights::Sights;
use crate::simd::{MAX_LANES, Simd};

/// Keys of a row's group, in whole chunks, and what the row sees of them.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    begin: usize,
    end: usize,
    /// The keys that the row sees.
    sees: (usize, usize),
}

impl Reach {
    #[inline(always)]
    pub(super) fn of<P: Products>(sights: &Sights, row: usize) -> Self {
        let group = sights.group(row / P::GROUP * P::GROUP, P::GROUP);
        let (reach, sees) = (group.reach(P::REACH), sights.keys(row));
        Self { begin: reach.start, end: reach.end, sees: (sees.start, sees.end) }
    }

    /// The keys, a vector at a time.
    #[inline(always)]
    pub(super) fn vectors<S: Simd>(&self) -> impl Iterator<Item = usize> {
        (self.begin..self.end).step_by(S::LANES)
    }

    /// Whether the row sees all keys of the vector at `key`.
    #[inline(always)]
    pub(super) fn covers<S: Simd>(&self, key: usize) -> bool {
        self.sees.0 <= key && key + S::LANES <= self.sees.1
    }

    /// Puts `hidden` in place of the scores of keys that the row does not see.
    ///
    /// # Safety
    /// As [`Simd`]; `scores` reaches the keys.
    #[inline(always)]
    pub(super) unsafe fn hide<S: Simd>(&self, scores: *mut f32, hidden: f32) {
        // From the first vector that the row does not see all of to the next that it does.
        let behind = self.sees.1 / S::LANES * S::LANES;
        let before = self.sees.0.next_multiple_of(S::LANES).min(self.end);
        // SAFETY: the caller vouches for the keys.
        unsafe {
            for key in (self.begin..before).step_by(S::LANES) {
                S::store(scores.add(key), self.apply::<S>(key, S::load(scores.add(key)), hidden));
            }
            for key in (behind.max(before)..self.end).step_by(S::LANES) {
                S::store(scores.add(key), self.apply::<S>(key, S::load(scores.add(key)), hidden));
            }
        }
    }

    /// `score` in the lanes that the row sees, of the vector at `key`, else `hidden`.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd>(&self, key: usize, score: S::V, hidden: f32) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            // Small integers: exact in f32.
            let (begin, end) = (self.sees.0 as f32 - key as f32, self.sees.1 as f32 - key as f32);
            within::<S>(begin, end, score, hidden)
        }
    }
}

/// `v` in the lanes from `begin` to before `end`, else `hidden`.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(super) unsafe fn within<S: Simd>(begin: f32, end: f32, v: S::V, hidden: f32) -> S::V {
    // SAFETY: the caller has the instruction set; there are as many numbers as the most lanes.
    unsafe {
        let (lanes, hidden) = (S::load(LANES.as_ptr()), S::splat(hidden));
        let v = S::where_less(lanes, S::splat(begin), hidden, v);
        S::where_less(lanes, S::splat(end), v, hidden)
    }
}

/// The lanes' numbers.
const LANES: [f32; MAX_LANES] = {
    let (mut lanes, mut lane) = ([0.0; MAX_LANES], 0);
    while lane < MAX_LANES {
        lanes[lane] = lane as f32;
        lane += 1;
    }
    lanes
};

/// A vector for each of `LANES` rows, to be reduced to a lane each.
#[repr(align(64))]
pub(crate) struct Square([f32; MAX_LANES * MAX_LANES]);

impl Square {
    pub(crate) const fn new() -> Self {
        Self([0.0; MAX_LANES * MAX_LANES])
    }

    /// # Safety
    /// As [`Simd`]; `row` is below `LANES`.
    #[inline(always)]
    pub(crate) unsafe fn set<S: Simd>(&mut self, row: usize, v: S::V) {
        // SAFETY: the rows fit.
        unsafe { S::store(self.0.as_mut_ptr().add(row * S::LANES), v) }
    }

    /// Joins the lanes of each row, to their maximum or else their sum: row `i` to lane `i`.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn join<S: Simd, const MAX: bool>(&self) -> S::V {
        // SAFETY: it holds a square.
        unsafe { S::join::<MAX>(self.0.as_ptr()) }
    }
}
