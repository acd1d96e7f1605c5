//! A document's rows as the kernels number them, and the keys that they see.

use super::opening::OPENING;
use core::ops::Range;
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

impl DocumentRows {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.segment.q_len * self.group
    }

    /// Rows that see few keys, by their place in the document alone: those of its first tokens, as far as
    /// they are here. They come first ([`opening`](super::opening)).
    #[inline(always)]
    pub(crate) fn opening(&self) -> usize {
        if !self.mask.causal {
            return 0;
        }
        let past = self.segment.k_len - self.segment.q_len;
        OPENING.saturating_sub(past).min(self.segment.q_len) * self.group
    }

    /// Query row and query head of each row, from row `first` on.
    #[inline(always)]
    pub(crate) fn places(&self, first: usize) -> Places {
        Places {
            row: self.segment.q_begin + first / self.group,
            head: first % self.group,
            group: self.group,
            first_head: self.first_head,
        }
    }

    /// Rows `rows`, a token's at a time.
    #[inline(always)]
    pub(crate) fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Run> {
        self.runs_from(self.places(rows.start), rows.len())
    }

    /// The document's rows from a place on, so many, a token's at a time.
    #[inline(always)]
    pub(crate) fn runs_from(&self, places: Places, rows: usize) -> impl Iterator<Item = Run> {
        let (mut token, mut head) = (places.row - self.segment.q_begin, places.head);
        let mut at = 0;
        core::iter::from_fn(move || {
            let left = rows - at;
            if left == 0 {
                return None;
            }
            let run = Run {
                at,
                rows: left.min(self.group - head),
                keys: self.mask.keys(token, self.segment.q_len, self.segment.k_len),
                row: self.segment.q_begin + token,
                head: self.first_head + head,
            };
            (at, token, head) = (at + run.rows, token + 1, 0);
            Some(run)
        })
    }

    /// The keys that a row sees.
    #[inline(always)]
    pub(crate) fn keys(&self, row: usize) -> Range<usize> {
        self.mask.keys(row / self.group, self.segment.q_len, self.segment.k_len)
    }

    /// How much it is to take rows past a tile of keys: how many rows and, up to the last that one of them
    /// sees, keys there are.
    #[inline(always)]
    pub(crate) fn size(&self, rows: &Range<usize>, tile: &Range<usize>) -> usize {
        rows.len() + self.keys(rows.end - 1).end.min(tile.end).saturating_sub(tile.start)
    }
}

/// Rows of one token.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Where they lie among the rows asked for, and how many they are.
    pub(crate) at: usize,
    pub(crate) rows: usize,
    /// The keys that they see.
    pub(crate) keys: Range<usize>,
    /// Query row and first query head.
    pub(crate) row: usize,
    pub(crate) head: usize,
}

/// Places of a document's rows, one after the other, without end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    row: usize,
    head: usize,
    group: usize,
    first_head: usize,
}

impl Places {
    /// One head of row after row.
    #[inline(always)]
    pub(crate) fn down(row: usize, head: usize) -> Self {
        Self { row, head: 0, group: 1, first_head: head }
    }
}

impl Iterator for Places {
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        let place = (self.row, self.first_head + self.head);
        self.head += 1;
        if self.head == self.group {
            (self.row, self.head) = (self.row + 1, 0);
        }
        Some(place)
    }
}
