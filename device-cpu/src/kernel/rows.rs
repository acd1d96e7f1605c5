//! A document's rows as the kernels number them, and the keys that they see.

use microseq_core::{Mask, Segment};

/// The rows of a document for one K/V head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DocumentRows {
    pub(crate) segment: Segment,
    pub(crate) mask: Mask,
    /// Query heads per K/V head.
    pub(crate) group: usize,
    /// The group's first query head.
    pub(crate) first_head: usize,
}

/// The keys that some consecutive rows see: `[begin, end)` for each row, both rising with the row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    /// Where the first row's keys begin: no row sees a key before it.
    pub(crate) first_begin: usize,
    /// Where the last row's keys begin: every row sees the keys from here …
    pub(crate) last_begin: usize,
    /// … to here, where the first row's keys end.
    pub(crate) first_end: usize,
    /// Where the last row's keys end: no row sees a key from here on.
    pub(crate) last_end: usize,
}

impl DocumentRows {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.segment.q_len * self.group
    }

    /// Query row and query head of a row.
    #[inline(always)]
    pub(crate) fn place(&self, row: usize) -> (usize, usize) {
        (self.segment.q_begin + row / self.group, self.first_head + row % self.group)
    }

    /// The keys that a row sees.
    #[inline(always)]
    pub(crate) fn keys(&self, row: usize) -> core::ops::Range<usize> {
        self.mask.keys(row / self.group, self.segment.q_len, self.segment.k_len)
    }

    /// The keys that rows `begin..end` see; at least one row.
    pub(crate) fn sight(&self, begin: usize, end: usize) -> Sight {
        let (first, last) = (self.keys(begin), self.keys(end - 1));
        Sight { first_begin: first.start, last_begin: last.start, first_end: first.end, last_end: last.end }
    }
}

impl Sight {
    /// The keys of tile `[tile, tile + keys)` that some row sees, relative to the tile; the begin
    /// rounded down to a multiple of `step`.
    #[inline(always)]
    pub(crate) fn within(&self, tile: usize, keys: usize, step: usize) -> core::ops::Range<usize> {
        let begin = self.first_begin.saturating_sub(tile).min(keys) / step * step;
        let end = self.last_end.saturating_sub(tile).min(keys);
        begin..end.max(begin)
    }

    /// Whether every row sees all keys of `range`, relative to `tile`.
    #[inline(always)]
    pub(crate) fn covers(&self, tile: usize, range: &core::ops::Range<usize>) -> bool {
        self.last_begin <= tile + range.start && tile + range.end <= self.first_end
    }
}
