//! The main job: real text, packed into one sequence, forward and backward in micro-sequences over
//! one K/V store per layer, as a training runtime would do it; then a check of the results.
//!
//! Start reading at `runtime.rs`: it is what a runtime does with this library.

mod args;
mod documents;
mod memory;
mod model;
mod report;
mod results;
mod runtime;

#[path = "../common"]
mod common {
    pub(crate) mod device;
    pub(crate) mod exit;
    pub(crate) mod progress;
}

use anyhow::{Result, ensure};
use args::Args;
use clap::Parser;
use common::device::{self, About, Work};
use common::exit;
use common::progress;
use documents::Documents;
use memory::Memory;
use microseq::dev::Harness;
use microseq::{DType, Element, Pass, Plan, Step, bf16, f16};
use model::Model;
use results::Differences;
use runtime::Runtime;
use std::process::ExitCode;

fn main() -> ExitCode {
    exit::report(pack_text(&Args::parse()))
}

fn pack_text(args: &Args) -> Result<()> {
    let documents = Documents::read(&args.files)?;
    device::run(args.device, args.threads, Packing { args, documents: &documents })
}

/// Documents to be packed and run on a device.
struct Packing<'a> {
    args: &'a Args,
    documents: &'a Documents,
}

impl Work for Packing<'_> {
    type Output = ();

    fn on<H: Harness>(self, harness: &H, about: &About) -> Result<()> {
        typed(harness, &about.to_string(), self.args, self.documents)
    }
}

/// What is about to run.
fn header(args: &Args, documents: &Documents, device: &str) {
    let Args { heads, kv_heads, head_dim, layers, ranks, micro_sequence_length, .. } = args;
    let (dtype, tokens) = (DType::from(args.dtype), documents.tokens.len());
    let window = args.window.map_or("no window".into(), |window| format!("window {window}"));
    println!("Attention, forward and backward, over packed documents");
    println!(
        "  documents  {} files, {} tokens (bytes)",
        documents.lengths.len(),
        report::thousands(tokens as u64)
    );
    println!(
        "  operator   {heads} heads over {kv_heads} K/V heads, head_dim {head_dim}, causal, {window}, {dtype}"
    );
    println!("  layers     {layers}, each with its own K/V store and f32 gradient store");
    println!("  steps      of {micro_sequence_length} rows, each shared by {ranks} simulated rank(s)");
    println!("  device     {device}");
    println!();
}

/// Runs in the type asked for; `name` tells the device.
fn typed<H: Harness>(harness: &H, name: &str, args: &Args, documents: &Documents) -> Result<()> {
    match args.dtype.into() {
        DType::F32 => pack::<H, f32>(harness, name, args, documents),
        DType::F16 => pack::<H, f16>(harness, name, args, documents),
        DType::Bf16 => pack::<H, bf16>(harness, name, args, documents),
    }
}

/// Runs the documents in steps and unsplit, and reports.
fn pack<H: Harness, E: Element>(harness: &H, name: &str, args: &Args, documents: &Documents) -> Result<()> {
    let attention = args.attention()?;
    let Documents { tokens, lengths } = documents;
    let plan = Plan::new(lengths, args.micro_sequence_length)?;
    let unsplit = Plan::new(lengths, tokens.len().max(1))?;
    ensure!(args.ranks > 0, "the number of ranks is 0, expected at least 1");
    header(args, documents, name);
    let model = Model::<E>::new(tokens, &attention, args.layers, args.seed);

    let pairs: u64 = plan.steps().map(|step| step.pairs(attention.mask())).sum();
    let bar = progress::bar(7 * 2 * pairs);
    let done = |pass, step: &Step<'_>| {
        let work = match pass {
            Pass::Forward => 2,
            Pass::Backward => 5,
        };
        bar.inc(work * step.pairs(attention.mask()));
    };
    let (times, given) = Runtime::new(harness, &model, attention, &plan, args.ranks).run(&plan, done)?;
    let (whole, expected) = Runtime::new(harness, &model, attention, &unsplit, 1).run(&unsplit, done)?;
    bar.finish_and_clear();

    report::steps(&plan, &attention, args.layers, &times);
    println!();
    let differences = Differences::between(&given, &expected);
    report::check(&differences, whole.first().copied().unwrap_or_default());
    println!();
    report::memory(&Memory::new(&plan, &attention, E::DTYPE, args.layers));
    let Differences { out, lse, dq, .. } = differences;
    ensure!([out, lse, dq].iter().all(|d| d.bit_identical()), "out, lse and dq must not depend on the split");
    Ok(())
}

#[cfg(test)]
mod tests;
