//! From document lengths to steps: checks the lengths once and cuts the sequence into windows.

use crate::Step;
use core::iter::FusedIterator;
use thiserror::Error;

/// The largest number of rows a sequence may have: row numbers must fit the field's 32-bit
/// `cu_seqlens`.
const MAX_TOKENS: usize = i32::MAX as usize;

/// Why document lengths cannot be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Steps of no rows would never end.
    #[error("micro_sequence_length is 0, expected at least 1")]
    ZeroMicroSequenceLength,
    /// The documents do not fit the rows given for them.
    #[error(
        "the documents need more than the {tokens} rows of the sequence: document {document} ends at row {document_end}"
    )]
    DocumentsExceedTokens {
        /// Rows of the sequence.
        tokens: usize,
        /// The first document that does not fit, counted from 0.
        document: usize,
        /// Where it would end.
        document_end: usize,
    },
    /// The sequence is longer than 32-bit `cu_seqlens` can say.
    #[error("{tokens} tokens exceed {limit}, the most that 32-bit cu_seqlens can count")]
    TooManyTokens {
        /// Rows asked for (saturated, if their sum overflows).
        tokens: usize,
        /// The most rows a plan takes.
        limit: usize,
    },
}

/// A packed sequence and how it is cut into micro-sequences.
///
/// Holds the lengths by reference and nothing that grows with them. Making one costs a walk over
/// the lengths; iterating over all [`steps`](Plan::steps) costs one more, in either direction.
///
/// ```
/// use microseq_core::Plan;
/// let plan = Plan::new(&[4, 1, 10], 5)?;
/// let windows: Vec<_> = plan.steps().map(|step| step.window()).collect();
/// assert_eq!(windows, [0..5, 5..10, 5..15]);
/// # Ok::<(), microseq_core::PlanError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    lengths: &'a [u32],
    documents_end: usize,
    tokens: usize,
    micro_sequence_length: usize,
}

impl<'a> Plan<'a> {
    /// Plans documents that fill the sequence exactly.
    ///
    /// `lengths` in tokens, 0 allowed; `micro_sequence_length` in tokens. The last step is short
    /// where the tokens do not divide evenly.
    ///
    /// # Errors
    /// [`PlanError::ZeroMicroSequenceLength`], [`PlanError::TooManyTokens`].
    pub const fn new(lengths: &'a [u32], micro_sequence_length: usize) -> Result<Self, PlanError> {
        let tokens = match Self::count(lengths) {
            Ok(tokens) => tokens,
            Err(error) => return Err(error),
        };
        Self::checked(lengths, tokens, tokens, micro_sequence_length)
    }

    /// Plans documents in a sequence of `tokens` rows; rows behind the last document are padding.
    ///
    /// # Errors
    /// As [`Plan::new`], and [`PlanError::DocumentsExceedTokens`].
    pub const fn padded(
        lengths: &'a [u32],
        tokens: usize,
        micro_sequence_length: usize,
    ) -> Result<Self, PlanError> {
        let documents_end = match Self::count(lengths) {
            Ok(documents_end) => documents_end,
            Err(error) => return Err(error),
        };
        Self::checked(lengths, documents_end, tokens, micro_sequence_length)
    }

    const fn count(lengths: &[u32]) -> Result<usize, PlanError> {
        let mut sum = 0usize;
        let mut document = 0;
        while document < lengths.len() {
            sum = sum.saturating_add(lengths[document] as usize);
            document += 1;
        }
        if sum > MAX_TOKENS {
            return Err(PlanError::TooManyTokens { tokens: sum, limit: MAX_TOKENS });
        }
        Ok(sum)
    }

    const fn checked(
        lengths: &'a [u32],
        documents_end: usize,
        tokens: usize,
        micro_sequence_length: usize,
    ) -> Result<Self, PlanError> {
        if micro_sequence_length == 0 {
            return Err(PlanError::ZeroMicroSequenceLength);
        }
        if tokens > MAX_TOKENS {
            return Err(PlanError::TooManyTokens { tokens, limit: MAX_TOKENS });
        }
        if documents_end > tokens {
            return Err(first_overflow(lengths, tokens));
        }
        Ok(Self { lengths, documents_end, tokens, micro_sequence_length })
    }

    /// The document lengths, in tokens.
    pub const fn lengths(&self) -> &'a [u32] {
        self.lengths
    }

    /// Rows of the sequence, padding included. A slot has as many.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rows that belong to documents; the rows from here on are padding.
    pub const fn documents_end(&self) -> usize {
        self.documents_end
    }

    /// Rows of every step but a short last one.
    pub const fn micro_sequence_length(&self) -> usize {
        self.micro_sequence_length
    }

    /// The steps in order; `.rev()` gives them in the order of the backward pass.
    pub const fn steps(&self) -> Steps<'a> {
        Steps {
            plan: *self,
            front: 0,
            back: self.tokens.div_ceil(self.micro_sequence_length),
            head: Cursor { document: 0, row: 0 },
            tail: Cursor { document: self.lengths.len(), row: self.documents_end },
        }
    }
}

/// The error for the first document that ends behind `tokens`.
const fn first_overflow(lengths: &[u32], tokens: usize) -> PlanError {
    let mut document = 0;
    let mut document_end = lengths[0] as usize;
    while document_end <= tokens {
        document += 1;
        document_end += lengths[document] as usize;
    }
    PlanError::DocumentsExceedTokens { tokens, document, document_end }
}

/// A place between documents: `row` is where `document` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    document: usize,
    row: usize,
}

/// The steps of a [`Plan`], from either end.
///
/// Each end keeps its own place among the documents, so a whole pass in one direction looks at
/// every document a bounded number of times, whatever the number of steps.
#[derive(Clone, Debug)]
pub struct Steps<'a> {
    plan: Plan<'a>,
    front: usize,
    back: usize,
    /// At or before the first document that touches step `front`.
    head: Cursor,
    /// Behind the last document that touches step `back - 1`.
    tail: Cursor,
}

impl<'a> Steps<'a> {
    fn bounds(&self, index: usize) -> (usize, usize) {
        let begin = index * self.plan.micro_sequence_length;
        let end = begin.saturating_add(self.plan.micro_sequence_length).min(self.plan.tokens);
        (begin, end)
    }

    fn length(&self, document: usize) -> usize {
        self.plan.lengths[document] as usize
    }

    fn make(&self, index: usize, first: Cursor, behind: usize) -> Step<'a> {
        let (begin, end) = self.bounds(index);
        Step::whole(index, begin..end, first.document, first.row, &self.plan.lengths[first.document..behind])
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if self.front == self.back {
            return None;
        }
        let index = self.front;
        let (begin, end) = self.bounds(index);
        let documents = self.plan.lengths.len();

        let mut first = self.head;
        while first.document < documents && first.row + self.length(first.document) <= begin {
            first.row += self.length(first.document);
            first.document += 1;
        }

        // The last document that touches this step may touch the next: resume there.
        self.head = first;
        let mut behind = first;
        while behind.document < documents && behind.row < end {
            self.head = behind;
            behind.row += self.length(behind.document);
            behind.document += 1;
        }
        self.front += 1;
        Some(self.make(index, first, behind.document))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.back - self.front, Some(self.back - self.front))
    }
}

impl DoubleEndedIterator for Steps<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        let index = self.back - 1;
        let (begin, end) = self.bounds(index);

        let mut behind = self.tail;
        while behind.document > 0 && behind.row - self.length(behind.document - 1) >= end {
            behind.document -= 1;
            behind.row -= self.length(behind.document);
        }

        let mut first = behind;
        while first.document > 0 && first.row > begin {
            first.document -= 1;
            first.row -= self.length(first.document);
        }

        // The first document that touches this step may touch the one before: resume behind it.
        self.tail = if first.document < behind.document {
            Cursor { document: first.document + 1, row: first.row + self.length(first.document) }
        } else {
            behind
        };
        self.back = index;
        Some(self.make(index, first, behind.document))
    }
}

impl ExactSizeIterator for Steps<'_> {}
impl FusedIterator for Steps<'_> {}
