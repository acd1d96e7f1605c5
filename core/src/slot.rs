//! The order in which steps may use a layer's slot.

use crate::{Plan, Step};
use core::ops::Range;
use thiserror::Error;

/// Why a step may not use the slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SlotError {
    /// A step ends behind the store.
    #[error("step {step} ends at row {end}, past the store's {rows} rows")]
    PastEnd {
        /// The step's number.
        step: usize,
        /// Its end.
        end: usize,
        /// Rows of the store.
        rows: usize,
    },
    /// A step's rows were filled already.
    #[error("step {step} was filled already: rows up to {expected} are, this one begins at {begin}")]
    AlreadyFilled {
        /// The step's number.
        step: usize,
        /// Its begin.
        begin: usize,
        /// The frontier.
        expected: usize,
    },
    /// A step before this one has not been run.
    #[error(
        "step {step} comes too early: expected the step that begins at row {expected}, this one begins at {begin}"
    )]
    StepSkipped {
        /// The step's number.
        step: usize,
        /// Its begin.
        begin: usize,
        /// The frontier.
        expected: usize,
    },
    /// A forward step after the backward pass began.
    #[error(
        "step {step} runs forward in a backward pass that has come down to row {expected}: expected the rest of it, or a restart"
    )]
    ForwardInBackward {
        /// The step's number.
        step: usize,
        /// The end of the step whose backward is due.
        expected: usize,
    },
    /// A backward step before the forward pass ended.
    #[error(
        "step {step} runs backward before the forward pass ended: expected the step that begins at row {frontier} of {rows}"
    )]
    BackwardBeforeForward {
        /// The step's number.
        step: usize,
        /// Rows filled so far.
        frontier: usize,
        /// Rows of the store.
        rows: usize,
    },
    /// The step's gradient rows are sealed already.
    #[error(
        "the gradients of step {step} are sealed already: those from row {expected} on are, this one ends at {end}"
    )]
    AlreadySealed {
        /// The step's number.
        step: usize,
        /// Its end.
        end: usize,
        /// The end of the step that is due.
        expected: usize,
    },
    /// A step behind this one has not been run backward.
    #[error(
        "step {step} comes too early backward: expected the step that ends at row {expected}, this one ends at {end}"
    )]
    BackwardSkipped {
        /// The step's number.
        step: usize,
        /// Its end.
        end: usize,
        /// The end of the step that is due.
        expected: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Forward,
    Backward,
}

/// The state of a layer's K/V store and gradient store: how far it is filled, and how far its
/// gradients are sealed.
///
/// It owns no memory. A runtime keeps one per layer and asks it before each step; the answer is the
/// window of the store that the step may use. It knows rows alone: steps of another plan pass where they
/// begin and end alike.
///
/// ```
/// use microseq_core::{Plan, Slot, SlotError};
/// let plan = Plan::new(&[4, 1, 10], 5).unwrap();
/// let mut slot = Slot::new(&plan);
/// let steps: Vec<_> = plan.steps().collect();
/// assert_eq!(slot.forward(&steps[0]), Ok(0..5));
/// assert!(matches!(slot.forward(&steps[2]), Err(SlotError::StepSkipped { expected: 5, .. })));
/// assert_eq!(slot.frontier(), 5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    rows: usize,
    phase: Phase,
    /// Forward: rows filled. Backward: rows whose gradients are still open.
    edge: usize,
}

impl Slot {
    /// The empty slot of a plan's sequence.
    pub const fn new(plan: &Plan<'_>) -> Self {
        Self { rows: plan.tokens(), phase: Phase::Forward, edge: 0 }
    }

    /// Rows of the store.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Rows filled so far.
    pub const fn frontier(&self) -> usize {
        match self.phase {
            Phase::Forward => self.edge,
            Phase::Backward => self.rows,
        }
    }

    /// The rows whose gradients are final: no later call of this pass adds to them.
    pub const fn sealed(&self) -> Range<usize> {
        match self.phase {
            Phase::Forward => self.rows..self.rows,
            Phase::Backward => self.edge..self.rows,
        }
    }

    /// Takes a step's turn forward: its rows count as filled from here on. Returns the window that
    /// its attention reads. A rank's share stands for its whole step. A turn is taken even if the device then refuses its
    /// calls: who wants to try again keeps the window, or a copy of the slot from before.
    ///
    /// # Errors
    /// [`SlotError::PastEnd`], [`SlotError::ForwardInBackward`], [`SlotError::AlreadyFilled`],
    /// [`SlotError::StepSkipped`]; the slot is as it was.
    pub const fn forward(&mut self, step: &Step<'_>) -> Result<Range<usize>, SlotError> {
        let Range { start: begin, end } = step.write();
        let index = step.index();
        if let Err(error) = self.holds(step) {
            return Err(error);
        }
        if matches!(self.phase, Phase::Backward) {
            return Err(SlotError::ForwardInBackward { step: index, expected: self.edge });
        }
        if begin < self.edge {
            return Err(SlotError::AlreadyFilled { step: index, begin, expected: self.edge });
        }
        if begin > self.edge {
            return Err(SlotError::StepSkipped { step: index, begin, expected: self.edge });
        }
        self.edge = end;
        Ok(step.window())
    }

    /// Takes a step's turn backward, last step first. Returns the window that its attention adds
    /// to; when that is done, the gradients of [`Step::write`] are sealed.
    ///
    /// # Errors
    /// [`SlotError::PastEnd`], [`SlotError::BackwardBeforeForward`], [`SlotError::AlreadySealed`],
    /// [`SlotError::BackwardSkipped`]; the slot is as it was.
    pub const fn backward(&mut self, step: &Step<'_>) -> Result<Range<usize>, SlotError> {
        let Range { start: begin, end } = step.write();
        let index = step.index();
        if let Err(error) = self.holds(step) {
            return Err(error);
        }
        if self.frontier() < self.rows {
            return Err(SlotError::BackwardBeforeForward {
                step: index,
                frontier: self.edge,
                rows: self.rows,
            });
        }
        if end > self.edge {
            return Err(SlotError::AlreadySealed { step: index, end, expected: self.edge });
        }
        if end < self.edge {
            return Err(SlotError::BackwardSkipped { step: index, end, expected: self.edge });
        }
        self.phase = Phase::Backward;
        self.edge = begin;
        Ok(step.window())
    }

    /// Empties the slot for the next sequence of the same plan. The runtime zeroes the gradient
    /// store.
    pub const fn restart(&mut self) {
        self.phase = Phase::Forward;
        self.edge = 0;
    }

    const fn holds(&self, step: &Step<'_>) -> Result<(), SlotError> {
        let end = step.write().end;
        if end > self.rows {
            return Err(SlotError::PastEnd { step: step.index(), end, rows: self.rows });
        }
        Ok(())
    }
}
