//! Per-row indices of a step: which document a row belongs to, and its position there.

use crate::{Segment, Step};
use core::iter::repeat_n;

impl<'a> Step<'a> {
    /// For each query row, the document it belongs to, counted from 1 within the step; 0 for
    /// padding. `end - begin` items.
    pub fn document_index_q(&self) -> impl Iterator<Item = u32> + use<'a> {
        labels(self.segments().map(|s| s.q_len), self.rows().len())
    }

    /// For each key row of the window, the document it belongs to, counted from 1 within the step;
    /// 0 for padding. `end - first_document_begin` items.
    pub fn document_index_k(&self) -> impl Iterator<Item = u32> + use<'a> {
        labels(self.segments().map(|s| s.k_len), self.window().len())
    }

    /// For each query row, its position inside its document; 0 for padding. `end - begin` items.
    ///
    /// Positions count from the document's begin, so they do not change when K is narrowed.
    pub fn position_index(&self) -> impl Iterator<Item = u32> + use<'a> {
        let positions = |s: Segment| (s.k_len - s.q_len) as u32..s.k_len as u32;
        self.segments().flat_map(positions).chain(core::iter::repeat(0)).take(self.rows().len())
    }
}

/// 1 for every row of the first document, 2 for the second, …, then 0, `rows` in all.
fn labels(lengths: impl Iterator<Item = usize>, rows: usize) -> impl Iterator<Item = u32> {
    (1..)
        .zip(lengths)
        .flat_map(|(label, length)| repeat_n(label, length))
        .chain(core::iter::repeat(0))
        .take(rows)
}
