//! What can be wrong with a case.

use microseq::{AttentionError, PlanError, ProblemError, VarlenError};
use safetensors::{Dtype, SafeTensorError};
use thiserror::Error;

/// Why a file is no case that can be run.
#[derive(Debug, Error)]
pub(crate) enum CaseError {
    #[error("not a safetensors file")]
    Format(#[from] SafeTensorError),
    #[error("tensor {tensor} is missing, the {form} form needs it")]
    MissingTensor { tensor: &'static str, form: &'static str },
    #[error("neither kv (sequence form) nor k and v (op form) is there")]
    NoForm,
    #[error("kv (sequence form) and {tensor} (op form) are both there, expected one form")]
    TwoForms { tensor: &'static str },
    #[error("tensor {tensor} is {given}, expected {expected}")]
    Type { tensor: &'static str, expected: String, given: Dtype },
    #[error("tensor {tensor} has shape {given:?}, expected {expected}")]
    Dimensions { tensor: &'static str, expected: &'static str, given: Vec<usize> },
    #[error("tensor {tensor} has shape {given:?}, expected {expected:?} to go with {with}")]
    Shape { tensor: &'static str, expected: Vec<usize>, given: Vec<usize>, with: &'static str },
    #[error("tensor {tensor} has head_dim {given}, expected {expected} as in q")]
    HeadDim { tensor: &'static str, expected: usize, given: usize },
    #[error("kv has {heads} heads, expected an even number: keys, then values")]
    OddKvHeads { heads: usize },
    #[error("metadata has no lengths, the sequence form needs them")]
    MissingLengths,
    #[error("metadata has lengths, which the op form does not use: its documents are in cu_seqlens")]
    UnusedLengths,
    #[error("metadata {key} is {value:?}, expected {expected}")]
    Metadata { key: &'static str, value: String, expected: &'static str },
    #[error(transparent)]
    Attention(#[from] AttentionError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Varlen(#[from] VarlenError),
    #[error(transparent)]
    Problem(#[from] ProblemError),
}
