//! The plain varlen form of a batch: `cu_seqlens` that somebody else made.

use crate::{CuSeqlens, Segment};
use thiserror::Error;

/// Why foreign `cu_seqlens` are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VarlenError {
    /// `cu_seqlens` of n documents have n + 1 entries, so none at all is not legal.
    #[error("cu_seqlens_q is empty, expected at least one entry")]
    Empty,
    /// The two lists speak of different numbers of documents.
    #[error("cu_seqlens_q has {q} entries, cu_seqlens_k {k}: expected as many")]
    Entries {
        /// Entries of `cu_seqlens_q`.
        q: usize,
        /// Entries of `cu_seqlens_k`.
        k: usize,
    },
    /// `cu_seqlens_q` starts below 0.
    #[error("cu_seqlens_q starts at {first}, expected at least 0")]
    NegativeQ {
        /// Its first entry.
        first: i32,
    },
    /// `cu_seqlens_k` starts below 0.
    #[error("cu_seqlens_k starts at {first}, expected at least 0")]
    NegativeK {
        /// Its first entry.
        first: i32,
    },
    /// `cu_seqlens_q` falls.
    #[error("cu_seqlens_q falls from {before} to {after} at document {document}")]
    FallingQ {
        /// The document of negative length, from 0.
        document: usize,
        /// Where it begins.
        before: i32,
        /// Where it ends.
        after: i32,
    },
    /// `cu_seqlens_k` falls.
    #[error("cu_seqlens_k falls from {before} to {after} at document {document}")]
    FallingK {
        /// The document of negative length, from 0.
        document: usize,
        /// Where it begins.
        before: i32,
        /// Where it ends.
        after: i32,
    },
    /// Queries past the end of the query view.
    #[error("cu_seqlens_q ends at row {end}, the query view has {rows}")]
    BeyondQ {
        /// Its last entry.
        end: usize,
        /// Rows of the view.
        rows: usize,
    },
    /// Keys past the end of the K/V view.
    #[error("cu_seqlens_k ends at row {end}, the K/V view has {rows}")]
    BeyondK {
        /// Its last entry.
        end: usize,
        /// Rows of the view.
        rows: usize,
    },
    /// A buffer for canonical entries is too short.
    #[error("canonical cu_seqlens need {expected} entries, the shorter buffer has {given}")]
    BufferTooShort {
        /// Entries of the foreign lists.
        expected: usize,
        /// Entries of the shorter buffer.
        given: usize,
    },
}

/// A batch in the field's varlen form: any `q_len` and `k_len` per document, prefix sums that may
/// start above 0.
///
/// A first entry `f > 0` means that the first `f` rows of the view belong to no document: such
/// queries give `out = 0`, `lse = -inf`, `dq = 0`, and nothing is added to the gradient of such keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Varlen<'a> {
    cu_seqlens_q: &'a [i32],
    cu_seqlens_k: &'a [i32],
    q_rows: usize,
    k_rows: usize,
}

impl<'a> Varlen<'a> {
    /// Checks prefix sums against the rows of the views they will index.
    ///
    /// # Errors
    /// Every variant of [`VarlenError`] but [`VarlenError::BufferTooShort`].
    pub fn new(
        cu_seqlens_q: &'a [i32],
        cu_seqlens_k: &'a [i32],
        q_rows: usize,
        k_rows: usize,
    ) -> Result<Self, VarlenError> {
        if cu_seqlens_q.is_empty() {
            return Err(VarlenError::Empty);
        }
        if cu_seqlens_q.len() != cu_seqlens_k.len() {
            return Err(VarlenError::Entries { q: cu_seqlens_q.len(), k: cu_seqlens_k.len() });
        }
        if cu_seqlens_q[0] < 0 {
            return Err(VarlenError::NegativeQ { first: cu_seqlens_q[0] });
        }
        if cu_seqlens_k[0] < 0 {
            return Err(VarlenError::NegativeK { first: cu_seqlens_k[0] });
        }
        if let Some((document, before, after)) = first_fall(cu_seqlens_q) {
            return Err(VarlenError::FallingQ { document, before, after });
        }
        if let Some((document, before, after)) = first_fall(cu_seqlens_k) {
            return Err(VarlenError::FallingK { document, before, after });
        }
        let end = cu_seqlens_q[cu_seqlens_q.len() - 1] as usize;
        if end > q_rows {
            return Err(VarlenError::BeyondQ { end, rows: q_rows });
        }
        let end = cu_seqlens_k[cu_seqlens_k.len() - 1] as usize;
        if end > k_rows {
            return Err(VarlenError::BeyondK { end, rows: k_rows });
        }
        Ok(Self { cu_seqlens_q, cu_seqlens_k, q_rows, k_rows })
    }

    /// Rows of the query view.
    pub const fn q_rows(&self) -> usize {
        self.q_rows
    }

    /// Rows of the K/V view.
    pub const fn k_rows(&self) -> usize {
        self.k_rows
    }

    /// Rows of K/V before the first document: how far K is narrowed to make the lists canonical.
    pub const fn first_key(&self) -> usize {
        self.cu_seqlens_k[0] as usize
    }

    /// Rows of Q before the first document.
    pub const fn first_query(&self) -> usize {
        self.cu_seqlens_q[0] as usize
    }

    /// The documents that have queries, in order.
    pub(crate) fn segments(&self) -> VarlenSegments<'a> {
        VarlenSegments { q: self.cu_seqlens_q, k: self.cu_seqlens_k }
    }

    /// Writes the canonical form, both lists starting at 0. It indexes views narrowed by
    /// [`first_query`](Varlen::first_query) and [`first_key`](Varlen::first_key) rows.
    ///
    /// # Errors
    /// [`VarlenError::BufferTooShort`], before anything is written.
    pub fn canonicalise<'b>(&self, q: &'b mut [i32], k: &'b mut [i32]) -> Result<CuSeqlens<'b>, VarlenError> {
        let expected = self.cu_seqlens_q.len();
        let given = q.len().min(k.len());
        if given < expected {
            return Err(VarlenError::BufferTooShort { expected, given });
        }
        shift(self.cu_seqlens_q, q);
        shift(self.cu_seqlens_k, k);
        Ok(CuSeqlens { q: &q[..expected], k: &k[..expected] })
    }
}

/// The segments of a varlen batch: pairs of neighbouring entries.
#[derive(Clone, Debug)]
pub(crate) struct VarlenSegments<'a> {
    q: &'a [i32],
    k: &'a [i32],
}

impl Iterator for VarlenSegments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        while let ([q_begin, q_rest @ ..], [k_begin, k_rest @ ..]) = (self.q, self.k) {
            let (q_end, k_end) = (q_rest.first()?, k_rest.first()?);
            (self.q, self.k) = (q_rest, k_rest);
            if q_end > q_begin {
                return Some(Segment {
                    q_begin: *q_begin as usize,
                    q_len: (q_end - q_begin) as usize,
                    k_begin: *k_begin as usize,
                    k_len: (k_end - k_begin) as usize,
                });
            }
        }
        None
    }
}

fn first_fall(cu_seqlens: &[i32]) -> Option<(usize, i32, i32)> {
    let document = cu_seqlens.windows(2).position(|w| w[1] < w[0])?;
    Some((document, cu_seqlens[document], cu_seqlens[document + 1]))
}

fn shift(from: &[i32], to: &mut [i32]) {
    for (to, from_entry) in to.iter_mut().zip(from) {
        *to = from_entry - from[0];
    }
}
