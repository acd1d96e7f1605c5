//! Lengths that cannot be planned.

use crate::kind::Kind;
use microseq::{Plan, PlanError};

const LIMIT: usize = i32::MAX as usize;

pub(crate) fn kinds() -> Vec<Kind> {
    let half = u32::MAX / 4 + 1;
    vec![
        Kind::new("steps of no rows", Plan::new(&[4, 1, 10], 0), PlanError::ZeroMicroSequenceLength),
        Kind::new(
            "documents longer than cu_seqlens can say",
            Plan::new(&[half, half], 4096),
            PlanError::TooManyTokens { tokens: 1 << 31, limit: LIMIT },
        ),
        Kind::new(
            "a sequence longer than cu_seqlens can say",
            Plan::padded(&[1], LIMIT + 8, 4096),
            PlanError::TooManyTokens { tokens: LIMIT + 8, limit: LIMIT },
        ),
        Kind::new(
            "the longest sequence imaginable",
            Plan::padded(&[], usize::MAX, 4096),
            PlanError::TooManyTokens { tokens: usize::MAX, limit: LIMIT },
        ),
        Kind::new(
            "documents longer than the sequence",
            Plan::padded(&[4, 0, 1, 10], 14, 5),
            PlanError::DocumentsExceedTokens { tokens: 14, document: 3, document_end: 15 },
        ),
        Kind::new(
            "a document in a sequence of no rows",
            Plan::padded(&[0, 3], 0, 5),
            PlanError::DocumentsExceedTokens { tokens: 0, document: 1, document_end: 3 },
        ),
    ]
}
