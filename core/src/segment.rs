//! One document's part of a call: which query rows, which key rows.

use core::iter::FusedIterator;
use core::ops::Range;

/// A document's part of a call. Rows count from the first row of the call's query view and of its
/// K/V view.
///
/// The masks align bottom-right: the last query sees the last key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First query row.
    pub q_begin: usize,
    /// Number of query rows, `q_len`.
    pub q_len: usize,
    /// First key row.
    pub k_begin: usize,
    /// Number of key rows, `k_len`.
    pub k_len: usize,
}

impl Segment {
    /// The query rows.
    pub const fn q(&self) -> Range<usize> {
        self.q_begin..self.q_begin + self.q_len
    }

    /// The key rows.
    pub const fn k(&self) -> Range<usize> {
        self.k_begin..self.k_begin + self.k_len
    }
}

/// The segments of a step, in order: one for each document with rows in it.
///
/// Source: Fast-LLM pull request #514, the canonical `cu_seqlens_q` and `cu_seqlens_k`.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    lengths: core::slice::Iter<'a, u32>,
    /// Where the next document begins, in the sequence.
    document_begin: usize,
    first_document_begin: usize,
    rows: Range<usize>,
}

impl<'a> Segments<'a> {
    pub(crate) fn new(lengths: &'a [u32], first_document_begin: usize, rows: Range<usize>) -> Self {
        Self { lengths: lengths.iter(), document_begin: first_document_begin, first_document_begin, rows }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        loop {
            let begin = self.document_begin;
            let end = begin + *self.lengths.next()? as usize;
            self.document_begin = end;
            let q_begin = begin.max(self.rows.start);
            let q_end = end.min(self.rows.end);
            if q_begin < q_end {
                return Some(Segment {
                    q_begin: q_begin - self.rows.start,
                    q_len: q_end - q_begin,
                    k_begin: begin - self.first_document_begin,
                    k_len: q_end - begin,
                });
            }
        }
    }
}

impl FusedIterator for Segments<'_> {}
