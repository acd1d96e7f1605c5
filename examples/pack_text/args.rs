//! The command line.

use crate::common::device::DeviceName;
use clap::{Parser, ValueEnum};
use microseq::{Attention, AttentionError, DType};
use std::path::PathBuf;

/// Run attention, forward and backward, over text files packed into one sequence.
///
/// Every file is a document and every byte a token. Bytes are embedded and projected with seeded
/// weights into q, k and v; the sequence is then processed in micro-sequences that share one K/V
/// store per layer, and the results are checked against one unsplit pass.
#[derive(Parser)]
pub(crate) struct Args {
    /// The documents [default: some of this project's own files].
    pub(crate) files: Vec<PathBuf>,
    /// Rows of a micro-sequence (step).
    #[arg(long, value_name = "ROWS", default_value_t = 4096)]
    pub(crate) micro_sequence_length: usize,
    /// Layers; each has a slot of its own, all share a step's metadata.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) layers: usize,
    /// Query heads.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) heads: usize,
    /// K/V heads; query heads must be a multiple.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) kv_heads: usize,
    /// Elements of a head.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) head_dim: usize,
    /// Type of q, k, v, out and their gradients (the gradient store is f32).
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "f32")]
    pub(crate) dtype: TypeName,
    /// Tokens that a query sees, its own included [default: all before it in its document].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) window: Option<usize>,
    /// Sequence-data-parallel ranks, simulated one after the other.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) ranks: usize,
    /// What to run on.
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) device: DeviceName,
    /// Threads of the CPU device [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl Args {
    pub(crate) fn attention(&self) -> Result<Attention, AttentionError> {
        let attention = Attention::new(self.heads, self.kv_heads, self.head_dim)?;
        match self.window {
            Some(window) => attention.with_window(window),
            None => Ok(attention),
        }
    }
}

/// An element type, by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum TypeName {
    F32,
    F16,
    Bf16,
}

impl From<TypeName> for DType {
    fn from(name: TypeName) -> Self {
        match name {
            TypeName::F32 => Self::F32,
            TypeName::F16 => Self::F16,
            TypeName::Bf16 => Self::Bf16,
        }
    }
}
