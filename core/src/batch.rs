//! What a device call covers: the documents of a step or of a varlen batch, under an operator.

use crate::varlen::VarlenSegments;
use crate::{Attention, DType, Element, Mask, Segment, Segments, Step, Varlen};
use core::iter::FusedIterator;
use thiserror::Error;

/// The documents of a call: those of a [`Step`], or of a plain [`Varlen`] batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch<'a> {
    /// A micro-sequence or a rank's share; its K/V view is the window of the slot.
    Step(Step<'a>),
    /// A plain varlen batch.
    Varlen(Varlen<'a>),
}

impl<'a> From<Step<'a>> for Batch<'a> {
    fn from(step: Step<'a>) -> Self {
        Self::Step(step)
    }
}

impl<'a> From<Varlen<'a>> for Batch<'a> {
    fn from(varlen: Varlen<'a>) -> Self {
        Self::Varlen(varlen)
    }
}

impl<'a> Batch<'a> {
    /// Rows of the query view.
    pub const fn q_rows(&self) -> usize {
        match self {
            Self::Step(step) => step.end() - step.begin(),
            Self::Varlen(varlen) => varlen.q_rows(),
        }
    }

    /// Rows of the K/V view.
    pub const fn k_rows(&self) -> usize {
        match self {
            Self::Step(step) => step.end() - step.first_document_begin(),
            Self::Varlen(varlen) => varlen.k_rows(),
        }
    }

    /// The documents that have queries, in order; their query rows are disjoint and ascend, and so
    /// do their key rows.
    pub fn segments(&self) -> BatchSegments<'a> {
        match self {
            Self::Step(step) => BatchSegments(Documents::Step(step.segments())),
            Self::Varlen(varlen) => BatchSegments(Documents::Varlen(varlen.segments())),
        }
    }

    /// Number of (query, key) pairs that `mask` lets through, for one head.
    pub fn pairs(&self, mask: Mask) -> u64 {
        self.segments().map(|s| mask.pairs(s.q_len, s.k_len)).sum()
    }
}

/// The segments of a [`Batch`], in order.
#[derive(Clone, Debug)]
pub struct BatchSegments<'a>(Documents<'a>);

#[derive(Clone, Debug)]
enum Documents<'a> {
    Step(Segments<'a>),
    Varlen(VarlenSegments<'a>),
}

impl Iterator for BatchSegments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        match &mut self.0 {
            Documents::Step(segments) => segments.next(),
            Documents::Varlen(segments) => segments.next(),
        }
    }
}

impl FusedIterator for BatchSegments<'_> {}

/// Why an operator cannot be applied to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProblemError {
    /// Non-causal attention over a document whose later keys are not in the window yet.
    #[error(
        "non-causal attention needs whole documents: document {document} ends at row {document_end}, the step's window at row {window_end}"
    )]
    FutureKeys {
        /// The document, from 0 in the plan.
        document: usize,
        /// Where it ends.
        document_end: usize,
        /// Where the step ends.
        window_end: usize,
    },
}

/// The shape of a call: what its views must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Type of Q, K, V, out and their incoming gradients.
    pub dtype: DType,
    /// Rows of Q.
    pub q_rows: usize,
    /// Rows of K and V.
    pub k_rows: usize,
    /// Query heads.
    pub heads: usize,
    /// K/V heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// An operator and the batch it is applied to: what [`Device::prepare`](crate::Device::prepare)
/// takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem<'a> {
    attention: Attention,
    batch: Batch<'a>,
    dtype: DType,
    zeroed_store: bool,
}

impl<'a> Problem<'a> {
    /// Joins the two for elements of a type.
    ///
    /// # Errors
    /// [`ProblemError::FutureKeys`].
    pub fn new(
        attention: Attention,
        batch: impl Into<Batch<'a>>,
        dtype: DType,
    ) -> Result<Self, ProblemError> {
        let batch = batch.into();
        if let (Batch::Step(step), false) = (&batch, attention.mask().causal)
            && let Some((document, document_end)) = step.unfinished()
        {
            return Err(ProblemError::FutureKeys { document, document_end, window_end: step.end() });
        }
        Ok(Self { attention, batch, dtype, zeroed_store: false })
    }

    /// Joins the two for elements of type `E`.
    ///
    /// # Errors
    /// As [`Problem::new`].
    pub fn of<E: Element>(attention: Attention, batch: impl Into<Batch<'a>>) -> Result<Self, ProblemError> {
        Self::new(attention, batch, E::DTYPE)
    }

    /// Promises that the gradient store was zeroed before the backward pass, that the steps of a sequence
    /// run backward in the order of the [`Slot`](crate::Slot), and that nothing else adds to the rows of a
    /// step before its turn. A device need not read what it adds to zeros then; results have the same bits.
    ///
    /// Where this is not so, what the store held may be missing from `dk` and `dv`.
    #[must_use]
    pub const fn on_zeroed_store(mut self) -> Self {
        self.zeroed_store = true;
        self
    }

    /// Rows of the gradient store's view, from its first on, that are known to hold zeros when the backward
    /// of this batch begins. Ends with a document: 0 without the promise of
    /// [`on_zeroed_store`](Problem::on_zeroed_store), [`Step::untouched`] with it. Walks over the documents.
    pub fn zeroed_rows(&self) -> usize {
        match (&self.batch, self.zeroed_store) {
            (_, false) => 0,
            (Batch::Step(step), true) => step.untouched().len(),
            (Batch::Varlen(varlen), true) => varlen.k_rows(),
        }
    }

    /// The operator.
    pub const fn attention(&self) -> &Attention {
        &self.attention
    }

    /// The documents.
    pub const fn batch(&self) -> &Batch<'a> {
        &self.batch
    }

    /// What the views of a call must fit.
    pub const fn shape(&self) -> Shape {
        Shape {
            dtype: self.dtype,
            q_rows: self.batch.q_rows(),
            k_rows: self.batch.k_rows(),
            heads: self.attention.heads(),
            kv_heads: self.attention.kv_heads(),
            head_dim: self.attention.head_dim(),
        }
    }

    /// Number of visible (query, key) pairs, for one head.
    pub fn pairs(&self) -> u64 {
        self.batch.pairs(self.attention.mask())
    }

    /// Floating-point operations of the forward pass: `4 * pairs * head_dim * heads`. The backward
    /// pass has 2.5 times as many.
    pub fn forward_flops(&self) -> f64 {
        4.0 * self.pairs() as f64 * (self.attention.head_dim() * self.attention.heads()) as f64
    }
}
