//! The command line.

use crate::common::device::DeviceName;
use crate::common::lengths::Lengths;
use crate::measure::workload::{self, Workload};
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use microseq::DType;

/// Measure attention, forward and backward, over a packed sequence; print one line of JSON.
///
/// The results are checked against float64, in samples, before anything is timed. Times are medians
/// after a warm-up. The peak is that of the multiply-add instruction that the device's kernels use,
/// measured in the same run on as many threads.
#[derive(Parser)]
pub(crate) struct Args {
    /// A workload of benches/workloads.json.
    #[arg(long, value_name = "NAME", required_unless_present = "lengths", conflicts_with = "lengths")]
    workload: Option<String>,
    /// Document lengths of a shape of your own, separated by commas.
    #[arg(long, value_name = "N,N,...")]
    lengths: Option<Lengths>,
    /// Rows of a micro-sequence [default: the whole sequence, or the workload's].
    #[arg(long, value_name = "ROWS")]
    micro_sequence_length: Option<usize>,
    /// Query heads [default: 8, or the workload's].
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// K/V heads; query heads must be a multiple [default: 2, or the workload's].
    #[arg(long, value_name = "N")]
    kv_heads: Option<usize>,
    /// Elements of a head [default: 128, or the workload's].
    #[arg(long, value_name = "N")]
    head_dim: Option<usize>,
    /// Tokens that a query sees, its own included [default: all before it in its document, or the
    /// workload's].
    #[arg(long, value_name = "TOKENS")]
    window: Option<usize>,
    /// Type of q, k, v, out and their gradients (the gradient store is f32).
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "f32")]
    dtype: TypeName,
    /// What to run on.
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) device: DeviceName,
    /// Threads of the CPU device [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Draw another packing, of as many documents and tokens, at every repetition, and count its
    /// planning and preparation as part of the forward pass.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Repeat for about so long, five times at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub(crate) seconds: f64,
}

impl Args {
    /// The named workload, or the shape of the caller's own; single options replace parts of either.
    pub(crate) fn workload(&self) -> Result<Workload> {
        let mut workload = match (&self.workload, &self.lengths) {
            (Some(name), _) => workload::named(name)?,
            (None, lengths) => custom(lengths.as_ref().context("neither --workload nor --lengths is given")?),
        };
        replace(&mut workload.micro_sequence_length, self.micro_sequence_length);
        replace(&mut workload.heads, self.heads);
        replace(&mut workload.kv_heads, self.kv_heads);
        replace(&mut workload.head_dim, self.head_dim);
        workload.window = self.window.or(workload.window);
        Ok(workload)
    }

    pub(crate) fn dtype(&self) -> DType {
        match self.dtype {
            TypeName::F32 => DType::F32,
            TypeName::F16 => DType::F16,
            TypeName::Bf16 => DType::Bf16,
        }
    }
}

fn custom(Lengths(lengths): &Lengths) -> Workload {
    let tokens = lengths.iter().map(|&length| length as usize).sum();
    Workload {
        name: "custom".into(),
        lengths: lengths.clone(),
        micro_sequence_length: usize::max(tokens, 1),
        heads: 8,
        kv_heads: 2,
        head_dim: 128,
        window: None,
    }
}

fn replace<T>(value: &mut T, by: Option<T>) {
    if let Some(by) = by {
        *value = by;
    }
}

/// An element type, by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TypeName {
    F32,
    F16,
    Bf16,
}
