//! Runs one case from a file and writes what comes out: how results are compared with another
//! framework's, and what a bug report attaches.
//!
//! A case has one of two forms. All metadata values are strings; `causal`, `scale`, `window` and
//! `softcap` may be left out.
//!
//! - sequence: tensors `q [tokens, heads, head_dim]`, `kv [tokens, 2 * kv_heads, head_dim]` (keys
//!   first), perhaps `dout` like `q`; metadata `lengths`, as "4,1,10".
//! - op: `q [q_rows, heads, head_dim]`, `k` and `v [k_rows, kv_heads, head_dim]`, perhaps `dout`;
//!   `cu_seqlens_q` and `cu_seqlens_k`, i32, which may start above 0.

mod case;
mod compare;
mod error;
mod run;
mod settings;

#[path = "../common"]
mod common {
    pub(crate) mod device;
    pub(crate) mod exit;
    pub(crate) mod lengths;
    pub(crate) mod tensors;
}

use anyhow::{Context, Result, bail};
use case::{File, Form};
use clap::Parser;
use common::device::{self, About, DeviceName, Work};
use common::exit;
use common::tensors::Stored;
use compare::Comparison;
use microseq::dev::Harness;
use microseq::{DType, Element, bf16, f16};
use run::Output;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use settings::Metadata;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run attention on a case from a safetensors file and write the results to another.
///
/// Writes out and dq in the type of q, lse and the gradients of keys and values in f32; without
/// dout in the case, only out and lse. tests/golden/README.md says what a case holds.
#[derive(Parser)]
struct Args {
    /// The case.
    input: PathBuf,
    /// Where the results go.
    output: PathBuf,
    /// Rows of a step, in the sequence form [default: the whole sequence].
    #[arg(long, value_name = "ROWS")]
    micro_sequence_length: Option<usize>,
    /// What to run on.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
    /// Threads of the CPU device [default: all].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// A file of expected results: print how far each result is from them, fail outside tolerance.
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit::report(replay(&Args::parse()))
}

fn replay(args: &Args) -> Result<()> {
    let bytes = std::fs::read(&args.input).with_context(|| args.input.display().to_string())?;
    let file = File::new(&bytes).with_context(|| args.input.display().to_string())?;
    let run = Run { file: &file, micro_sequence_length: args.micro_sequence_length };
    let (dtype, outputs) = device::run(args.device, args.threads, run)?;
    write(&args.output, &outputs, file.metadata.clone())
        .with_context(|| args.output.display().to_string())?;
    match &args.expected {
        Some(path) => check(path, &outputs, dtype).with_context(|| path.display().to_string()),
        None => Ok(()),
    }
}

/// The case of a file, to be run on a device.
struct Run<'a> {
    file: &'a File<'a>,
    micro_sequence_length: Option<usize>,
}

impl Work for Run<'_> {
    type Output = (DType, Vec<Output>);

    fn on<H: Harness>(self, harness: &H, _: &About) -> Result<Self::Output> {
        outputs(harness, self.file, self.micro_sequence_length)
    }
}

/// Runs the case of a file in the type that it has.
fn outputs<H: Harness>(
    harness: &H,
    file: &File<'_>,
    micro_sequence_length: Option<usize>,
) -> Result<(DType, Vec<Output>)> {
    match file.dtype()? {
        Dtype::F16 => typed::<H, f16>(harness, file, micro_sequence_length),
        Dtype::BF16 => typed::<H, bf16>(harness, file, micro_sequence_length),
        _ => typed::<H, f32>(harness, file, micro_sequence_length),
    }
}

fn typed<H: Harness, E: Element + Stored>(
    harness: &H,
    file: &File<'_>,
    micro_sequence_length: Option<usize>,
) -> Result<(DType, Vec<Output>)> {
    let case = file.case::<E>()?;
    if micro_sequence_length.is_some() && matches!(case.form, Form::Op { .. }) {
        eprintln!("note: the op form has no steps, --micro-sequence-length is not used");
    }
    Ok((E::DTYPE, run::case(harness, &case, micro_sequence_length)?))
}

fn write(path: &Path, outputs: &[Output], metadata: Metadata) -> Result<()> {
    let views = outputs.iter().map(|output| {
        let view = TensorView::new(output.dtype, output.shape.clone(), &output.bytes)?;
        Ok((output.name, view))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize_to_file(views, Some(metadata), path)?)
}

/// Prints the distances from the expected results.
fn check(path: &Path, outputs: &[Output], dtype: DType) -> Result<()> {
    let comparisons = compare::with_file(outputs, &std::fs::read(path)?, dtype)?;
    println!("{:<4} {:>12} {:>12} {:>10}", "", "rms apart", "magnitude", "tolerance");
    for Comparison { name, distance, tolerance } in &comparisons {
        let verdict = if distance.within(*tolerance) { "ok" } else { "TOO FAR" };
        println!(
            "{name:<4} {:>12.3e} {:>12.3e} {tolerance:>10.1e}  {verdict}",
            distance.rms, distance.magnitude
        );
    }
    if !comparisons.iter().all(Comparison::passes) {
        bail!("results are outside the tolerance");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
