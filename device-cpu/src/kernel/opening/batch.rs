//! Some rows of an opening, and the keys that each sees.

use super::OPENING;
use crate::kernel::lanes::within;
use crate::kernel::rows::{DocumentRows, Places, Run};
use crate::simd::{MAX_LANES, Simd};
use core::ops::Range;

/// Neighbouring rows, at most as many as a vector has lanes.
pub(super) struct Batch<'a> {
    document: &'a DocumentRows,
    /// The first of them, and how many they are.
    first: Places,
    rows: usize,
    /// The keys that some row sees.
    keys: Range<usize>,
    /// The rows that see each of them: rows see more and later keys as they rise.
    seeing: [(usize, usize); OPENING],
}

impl<'a> Batch<'a> {
    /// Batch `index` of a document's opening.
    #[inline(always)]
    pub(super) fn new<S: Simd>(document: &'a DocumentRows, index: usize) -> Self {
        let rows = index * S::LANES..document.opening().min((index + 1) * S::LANES);
        let first = document.places(rows.start);
        let mut batch =
            Self { document, first, rows: rows.len(), keys: 0..0, seeing: [(MAX_LANES, 0); OPENING] };
        for run in batch.runs() {
            // Both rise with the row.
            let begin = if run.at == 0 { run.keys.start } else { batch.keys.start };
            batch.keys = begin..run.keys.end;
            for (first, behind) in &mut batch.seeing[run.keys.clone()] {
                (*first, *behind) = (run.at.min(*first), run.at + run.rows);
            }
        }
        batch
    }

    /// Batches of a document's opening.
    #[inline(always)]
    pub(super) fn count<S: Simd>(document: &DocumentRows) -> usize {
        document.opening().div_ceil(S::LANES)
    }

    /// Rows, a token's at a time.
    #[inline(always)]
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + use<'a> {
        self.document.runs_from(self.first, self.rows)
    }

    /// Query row and query head of each row.
    #[inline(always)]
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        self.first.take(self.rows)
    }

    /// The keys that some row sees.
    #[inline(always)]
    pub(super) fn keys(&self) -> Range<usize> {
        self.keys.clone()
    }

    /// The rows that see some of `keys`, which are among those that some row sees.
    #[inline(always)]
    pub(super) fn seeing(&self, keys: &Range<usize>) -> Range<usize> {
        self.seeing[keys.start].0..self.seeing[keys.end - 1].1
    }

    /// `v` in the lanes of rows that see a key, else `hidden`.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn see<S: Simd>(&self, key: usize, v: S::V, hidden: f32) -> S::V {
        let (first, behind) = self.seeing[key];
        // SAFETY: the caller has the instruction set.
        unsafe { within::<S>(first as f32, behind as f32, v, hidden) }
    }
}
