//! One micro-sequence: its rows, its window of the slot, and its canonical `cu_seqlens`.

use crate::{Mask, Segments};
use core::ops::Range;
use thiserror::Error;

/// Why something cannot be had of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StepError {
    /// A buffer for `cu_seqlens_q` is too short.
    #[error("cu_seqlens_q needs {expected} entries, the buffer has {given}")]
    CuSeqlensQTooShort {
        /// Documents in the step, and one.
        expected: usize,
        /// Entries of the buffer.
        given: usize,
    },
    /// A buffer for `cu_seqlens_k` is too short.
    #[error("cu_seqlens_k needs {expected} entries, the buffer has {given}")]
    CuSeqlensKTooShort {
        /// Documents in the step, and one.
        expected: usize,
        /// Entries of the buffer.
        given: usize,
    },
    /// A share was asked of no ranks.
    #[error("the number of ranks is 0, expected at least 1")]
    ZeroRanks,
    /// A rank outside its group.
    #[error("rank {rank} is outside a group of {ranks}")]
    RankOutOfRange {
        /// The rank asked for.
        rank: usize,
        /// Ranks in the group.
        ranks: usize,
    },
}

/// A micro-sequence `[begin, end)` of a packed sequence, or one rank's share of it.
///
/// Made by [`Plan::steps`](crate::Plan::steps); a small value, free to copy and keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    index: usize,
    /// The micro-sequence: what a gather writes.
    write_begin: usize,
    write_end: usize,
    /// The rows of this view of it: all, or a rank's share.
    begin: usize,
    end: usize,
    first_document: usize,
    first_document_begin: usize,
    /// From the first document that touches the rows to the last, empty ones between included.
    lengths: &'a [u32],
}

impl<'a> Step<'a> {
    /// `first_document_begin` is ignored where no document touches the rows.
    pub(crate) fn whole(
        index: usize,
        rows: Range<usize>,
        first_document: usize,
        first_document_begin: usize,
        lengths: &'a [u32],
    ) -> Self {
        Self {
            index,
            write_begin: rows.start,
            write_end: rows.end,
            begin: rows.start,
            end: rows.end,
            first_document,
            first_document_begin: if lengths.is_empty() { rows.start } else { first_document_begin },
            lengths,
        }
    }

    /// The step's number, from 0, in forward order.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// First row, in the sequence. For a rank's share this is `sequence_k_past`.
    pub const fn begin(&self) -> usize {
        self.begin
    }

    /// One behind the last row, in the sequence.
    pub const fn end(&self) -> usize {
        self.end
    }

    /// Where the first document that touches the rows begins; [`begin`](Step::begin) where none
    /// does.
    pub const fn first_document_begin(&self) -> usize {
        self.first_document_begin
    }

    /// The number, from 0 in the plan, of the first document that touches the rows.
    pub const fn first_document(&self) -> usize {
        self.first_document
    }

    /// The query rows, in the sequence: `[begin, end)`.
    pub const fn rows(&self) -> Range<usize> {
        self.begin..self.end
    }

    /// The slot rows that the step's gather fills and whose gradients its backward seals. For a
    /// rank's share: those of all ranks.
    pub const fn write(&self) -> Range<usize> {
        self.write_begin..self.write_end
    }

    /// The slot rows before the step that its queries can see.
    pub const fn past(&self) -> Range<usize> {
        self.first_document_begin..self.begin
    }

    /// The slot rows that the step reads forward and adds to backward:
    /// `[first_document_begin, end)`.
    pub const fn window(&self) -> Range<usize> {
        self.first_document_begin..self.end
    }

    /// The part of rank `rank` of `ranks`: rows
    /// `[begin + rank * n / ranks, begin + (rank + 1) * n / ranks)` of the `n` rows of the step,
    /// rounded down, so shares are equal where they can be. The share sees the slot up to its own
    /// end. Costs a walk over the documents of the step.
    ///
    /// # Errors
    /// [`StepError::ZeroRanks`], [`StepError::RankOutOfRange`].
    pub const fn share(&self, rank: usize, ranks: usize) -> Result<Self, StepError> {
        if ranks == 0 {
            return Err(StepError::ZeroRanks);
        }
        if rank >= ranks {
            return Err(StepError::RankOutOfRange { rank, ranks });
        }
        Ok(self.part(rank, ranks))
    }

    /// Part `rank` of `ranks`, which is one of them.
    const fn part(&self, rank: usize, ranks: usize) -> Self {
        let begin = self.begin + part(self.end - self.begin, rank, ranks);
        let end = self.begin + part(self.end - self.begin, rank + 1, ranks);
        self.narrowed(begin, end)
    }

    /// The [`share`](Step::share)s of all ranks, in rank order.
    ///
    /// # Errors
    /// [`StepError::ZeroRanks`].
    pub fn shares(&self, ranks: usize) -> Result<impl ExactSizeIterator<Item = Self> + use<'a>, StepError> {
        if ranks == 0 {
            return Err(StepError::ZeroRanks);
        }
        let step = *self;
        Ok((0..ranks).map(move |rank| step.part(rank, ranks)))
    }

    /// The part of [`write`](Step::write) that rank `rank` of `ranks` owns: its share's rows, without a
    /// walk over the documents. Of a share it is still a part of the whole micro-sequence's rows.
    ///
    /// # Errors
    /// [`StepError::ZeroRanks`], [`StepError::RankOutOfRange`].
    pub const fn write_share(&self, rank: usize, ranks: usize) -> Result<Range<usize>, StepError> {
        if ranks == 0 {
            return Err(StepError::ZeroRanks);
        }
        if rank >= ranks {
            return Err(StepError::RankOutOfRange { rank, ranks });
        }
        let rows = self.write_end - self.write_begin;
        let begin = self.write_begin + part(rows, rank, ranks);
        Ok(begin..self.write_begin + part(rows, rank + 1, ranks))
    }

    /// The documents that touch `[begin, end)`, a part of this step's rows.
    const fn narrowed(mut self, begin: usize, end: usize) -> Self {
        while let Some((&length, rest)) = self.lengths.split_first() {
            if self.first_document_begin + length as usize > begin {
                break;
            }
            self.first_document_begin += length as usize;
            self.first_document += 1;
            self.lengths = rest;
        }
        let mut count = 0;
        let mut row = self.first_document_begin;
        while count < self.lengths.len() && row < end {
            row += self.lengths[count] as usize;
            count += 1;
        }
        self.lengths = self.lengths.split_at(count).0;
        self.begin = begin;
        self.end = end;
        if begin == end || count == 0 {
            self.lengths = &[];
            self.first_document_begin = begin;
        }
        self
    }

    /// The documents with rows in the step, each with its query and key rows.
    pub fn segments(&self) -> Segments<'a> {
        Segments::new(self.lengths, self.first_document_begin, self.rows())
    }

    /// Number of documents with rows in the step. Walks over them.
    pub fn documents(&self) -> usize {
        self.segments().count()
    }

    /// Rows of the step that belong to documents; the rest, at its end, is padding. Walks over the
    /// documents.
    pub fn document_rows(&self) -> usize {
        self.segments().last().map_or(0, |last| last.q_begin + last.q_len)
    }

    /// Number of (query, key) pairs that `mask` lets through, for one head. Walks over the
    /// documents, not over the rows.
    pub fn pairs(&self, mask: Mask) -> u64 {
        self.segments().map(|s| mask.pairs(s.q_len, s.k_len)).sum()
    }

    /// The first document whose rows go on behind the step, with its number and its end: its later
    /// keys are not in the window.
    pub fn unfinished(&self) -> Option<(usize, usize)> {
        let mut document_end = self.first_document_begin;
        for (index, &length) in self.lengths.iter().enumerate() {
            document_end += length as usize;
            if document_end > self.end {
                return Some((self.first_document + index, document_end));
            }
        }
        None
    }

    /// The slot rows of the window that no later step adds to: all but those of a document that goes on
    /// behind the micro-sequence. In a gradient store that was zeroed before the backward pass they hold
    /// zeros until the step's turn. Walks over the documents.
    pub fn untouched(&self) -> Range<usize> {
        let mut document = self.first_document_begin..self.first_document_begin;
        for &length in self.lengths {
            document = document.end..document.end + length as usize;
        }
        let end = if document.end > self.write_end { document.start } else { self.end };
        self.first_document_begin..end
    }

    /// Writes the canonical `cu_seqlens_q` and `cu_seqlens_k`: prefix sums from 0 over the documents
    /// with rows in the step, keys counted from [`first_document_begin`](Step::first_document_begin).
    /// Both buffers need [`documents`](Step::documents)` + 1` entries; further ones are left alone.
    ///
    /// # Errors
    /// [`StepError::CuSeqlensQTooShort`], [`StepError::CuSeqlensKTooShort`], before anything is
    /// written.
    pub fn cu_seqlens<'b>(&self, q: &'b mut [i32], k: &'b mut [i32]) -> Result<CuSeqlens<'b>, StepError> {
        let expected = self.documents() + 1;
        if q.len() < expected {
            return Err(StepError::CuSeqlensQTooShort { expected, given: q.len() });
        }
        if k.len() < expected {
            return Err(StepError::CuSeqlensKTooShort { expected, given: k.len() });
        }
        (q[0], k[0]) = (0, 0);
        for (j, segment) in self.segments().enumerate() {
            // A plan has at most i32::MAX rows.
            q[j + 1] = segment.q().end as i32;
            k[j + 1] = segment.k().end as i32;
        }
        Ok(CuSeqlens { q: &q[..expected], k: &k[..expected] })
    }

    /// The longest `q_len` of the step's documents; 0 without documents.
    pub fn max_seqlen_q(&self) -> usize {
        self.segments().map(|s| s.q_len).max().unwrap_or(0)
    }

    /// The longest `k_len` of the step's documents; 0 without documents.
    pub fn max_seqlen_k(&self) -> usize {
        self.segments().map(|s| s.k_len).max().unwrap_or(0)
    }

    /// The shortest `q_len` of the step's documents; 0 without documents.
    pub fn min_seqlen_q(&self) -> usize {
        self.segments().map(|s| s.q_len).min().unwrap_or(0)
    }

    /// The shortest `k_len` of the step's documents; 0 without documents.
    pub fn min_seqlen_k(&self) -> usize {
        self.segments().map(|s| s.k_len).min().unwrap_or(0)
    }
}

/// `part` of `of` equal parts of `n`, rounded down, without overflow.
const fn part(n: usize, part: usize, of: usize) -> usize {
    (n as u128 * part as u128 / of as u128) as usize
}

/// Canonical prefix sums: both start at 0 and have one entry more than there are documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CuSeqlens<'b> {
    /// Query rows, counted from the call's first query row.
    pub q: &'b [i32],
    /// Key rows, counted from the call's first key row.
    pub k: &'b [i32],
}
