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

    /// The keys, a vector at a time, each with whether the row sees all of it.
    #[inline(always)]
    pub(super) fn vectors<S: Simd>(&self) -> impl Iterator<Item = (usize, bool)> {
        let (begin, end) = self.sees;
        (self.begin..self.end).step_by(S::LANES).map(move |key| (key, begin <= key && key + S::LANES <= end))
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
            let (lanes, hidden) = (S::load(LANES.as_ptr()), S::splat(hidden));
            let seen = S::where_less(lanes, S::splat(begin), hidden, score);
            S::where_less(lanes, S::splat(end), seen, hidden)
        }
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

    /// Joins the lanes of each row, pair by pair, to their maximum or else their sum: row `i` to lane `i`.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn reduce<S: Simd, const MAX: bool>(&self) -> S::V {
        let mut turned = Self::new();
        // SAFETY: both hold a square.
        unsafe {
            S::transpose(self.0.as_ptr(), S::LANES, turned.0.as_mut_ptr(), S::LANES);
            let mut v = [S::splat(0.0); MAX_LANES];
            for (lane, v) in v.iter_mut().enumerate().take(S::LANES) {
                *v = S::load(turned.0.as_ptr().add(lane * S::LANES));
            }
            let mut left = S::LANES / 2;
            while left > 0 {
                for i in 0..left {
                    v[i] = if MAX { S::max(v[i], v[i + left]) } else { S::add(v[i], v[i + left]) };
                }
                left /= 2;
            }
            v[0]
        }
    }
}
