//! What can go wrong among ranks, whatever the transport.

use super::{Call, Field};
use crate::{Operand, ShapeError, StepError};
use core::fmt;
use core::time::Duration;
use thiserror::Error;

/// What ranks meet for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// To make the group.
    Making,
    /// A collective.
    Call(Call),
}

impl fmt::Display for Occasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Making => f.write_str("the making of the group"),
            Self::Call(call) => write!(f, "{call}"),
        }
    }
}

/// Why ranks cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RanksError {
    /// Rows that do not fit the step.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A rank outside its group, or a group of none.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Rows with gaps, where a transport needs them dense.
    #[error(
        "{operand} is not dense, as this transport needs it: [{rows}, {heads}, {head_dim}] with row stride {row_stride}, head stride {head_stride}"
    )]
    NotDense {
        /// The keys or the values.
        operand: Operand,
        /// Rows.
        rows: usize,
        /// Heads.
        heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Elements from a row to the next.
        row_stride: usize,
        /// Elements from a head to the next.
        head_stride: usize,
    },
    /// More than the transport can count.
    #[error("{what} is {given}, the transport takes at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        given: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The agreement speaks of another number of ranks than there are.
    #[error("the agreement is one of {agreed} ranks, the group has {size}")]
    Size {
        /// Ranks of the [`Agreement`](super::Agreement).
        agreed: usize,
        /// Ranks of the group.
        size: usize,
    },
    /// A rank was given something else, see [`Agreement`](super::Agreement).
    #[error("rank {rank} disagrees: its {field} is {}, here it is {}", field.value(*there), field.value(*here))]
    Differs {
        /// The other rank.
        rank: usize,
        /// In what.
        field: Field,
        /// The other rank's.
        there: u64,
        /// This rank's.
        here: u64,
    },
    /// A rank is at another collective.
    #[error("rank {rank} disagrees: it is at {there}, this rank at {here}")]
    OtherCall {
        /// The other rank.
        rank: usize,
        /// Where it is.
        there: Call,
        /// Where this rank is.
        here: Call,
    },
    /// A rank speaks another language: another version of this library, say.
    #[error("what rank {rank} says is not of this version of the library")]
    Garbled {
        /// The other rank.
        rank: usize,
    },
    /// A rank did not come in time.
    #[error("rank {rank} did not come to {occasion} within {waited:?}")]
    Absent {
        /// The other rank.
        rank: usize,
        /// What this rank waits for.
        occasion: Occasion,
        /// How long it did.
        waited: Duration,
    },
    /// A rank is gone: it failed, or was dropped.
    #[error("rank {rank} left before {occasion}")]
    Left {
        /// The other rank.
        rank: usize,
        /// What this rank waits for.
        occasion: Occasion,
    },
    /// A transfer that all ranks had come to did not end in time; which rank holds it up is not known.
    #[error("{occasion} did not end within {waited:?}: a rank has stopped, or did not come")]
    Stuck {
        /// What did not end.
        occasion: Occasion,
        /// How long this rank waited.
        waited: Duration,
    },
}
