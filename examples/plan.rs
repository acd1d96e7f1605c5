//! Prints how a packed sequence is cut into steps, as one line of JSON.
//!
//! The fields are those of Fast-LLM's own preprocessing, so the two can be compared line by line.

use anyhow::Result;
use clap::Parser;
use common::exit;
use common::lengths::Lengths;
use microseq::{Plan, Step};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

mod common {
    pub(crate) mod exit;
    pub(crate) mod lengths;
}

/// Print how documents packed into one sequence are cut into steps, as one line of JSON.
#[derive(Parser)]
struct Args {
    /// Document lengths in tokens, separated by commas; 0 is allowed.
    #[arg(long, value_name = "N,N,...")]
    lengths: Lengths,
    /// Rows of every step but a short last one.
    #[arg(long, value_name = "ROWS")]
    micro_sequence_length: usize,
    /// Rows of the sequence; those behind the last document are padding [default: no padding].
    #[arg(long, value_name = "ROWS")]
    tokens: Option<usize>,
}

#[derive(Debug, PartialEq, Serialize)]
struct PlanLine<'a> {
    lengths: &'a [u32],
    micro_sequence_length: usize,
    steps: Vec<StepLine>,
}

#[derive(Debug, PartialEq, Serialize)]
struct StepLine {
    begin: usize,
    end: usize,
    first_document_begin: usize,
    cu_seqlens_q: Vec<i32>,
    cu_seqlens_k: Vec<i32>,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    min_seqlen_q: usize,
    min_seqlen_k: usize,
    document_index_q: Vec<u32>,
    document_index_k: Vec<u32>,
    position_index: Vec<u32>,
}

impl<'a> PlanLine<'a> {
    fn new(plan: &Plan<'a>) -> Result<Self> {
        Ok(Self {
            lengths: plan.lengths(),
            micro_sequence_length: plan.micro_sequence_length(),
            steps: plan.steps().map(StepLine::new).collect::<Result<_>>()?,
        })
    }
}

impl StepLine {
    fn new(step: Step<'_>) -> Result<Self> {
        let entries = step.documents() + 1;
        let (mut cu_seqlens_q, mut cu_seqlens_k) = (vec![0; entries], vec![0; entries]);
        step.cu_seqlens(&mut cu_seqlens_q, &mut cu_seqlens_k)?;
        Ok(Self {
            begin: step.begin(),
            end: step.end(),
            first_document_begin: step.first_document_begin(),
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q: step.max_seqlen_q(),
            max_seqlen_k: step.max_seqlen_k(),
            min_seqlen_q: step.min_seqlen_q(),
            min_seqlen_k: step.min_seqlen_k(),
            document_index_q: step.document_index_q().collect(),
            document_index_k: step.document_index_k().collect(),
            position_index: step.position_index().collect(),
        })
    }
}

fn main() -> ExitCode {
    exit::report(print(&Args::parse()))
}

fn print(args: &Args) -> Result<()> {
    let Lengths(lengths) = &args.lengths;
    let plan = match args.tokens {
        Some(tokens) => Plan::padded(lengths, tokens, args.micro_sequence_length)?,
        None => Plan::new(lengths, args.micro_sequence_length)?,
    };
    let line = serde_json::to_string(&PlanLine::new(&plan)?)?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What Fast-LLM's own code computes, a plan a line.
    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/plans.jsonl");

    #[test]
    fn agrees_with_fast_llm() {
        let golden = std::fs::read_to_string(GOLDEN).unwrap();
        assert_eq!(golden.lines().count(), 40);
        for line in golden.lines() {
            let expected: Value = serde_json::from_str(line).unwrap();
            let lengths: Vec<u32> = serde_json::from_value(expected["lengths"].clone()).unwrap();
            let micro_sequence_length = expected["micro_sequence_length"].as_u64().unwrap() as usize;
            let plan = Plan::new(&lengths, micro_sequence_length).unwrap();
            let given = serde_json::to_string(&PlanLine::new(&plan).unwrap()).unwrap();
            // Without its spaces, the golden line must be ours to the byte: values and field order.
            assert_eq!(given, line.replace(' ', ""));
        }
    }

    #[test]
    fn command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
