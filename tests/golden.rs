//! Every case of `tests/golden`, made elsewhere in float64 by an explicit masked softmax, on the CPU
//! device; and every plan of `plans.jsonl`, computed by Fast-LLM's own code.
//!
//! `tests/golden/README.md` says what the files hold.

mod common;

use common::{cpus, golden, safetensors};
use microseq::Plan;

/// Threads for the golden cases; `bits.rs` has more.
const THREADS: [usize; 2] = [1, 2];

macro_rules! cases {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                case(stringify!($name));
            }
        )+

        const CASES: &[&str] = &[$(stringify!($name)),+];
    };
}

cases! {
    op_f32_bottom_right
    op_f32_fewer_keys
    op_f32_non_canonical
    seq_bf16_gqa128
    seq_bf16_window
    seq_f16_mha64
    seq_f32_causal
    seq_f32_mqa_head320
    seq_f32_noncausal
    seq_f32_padding_and_empty
    seq_f32_softcap
    seq_f32_window
}

#[test]
fn no_file_is_left_out() {
    assert_eq!(golden::names(), CASES);
}

/// On every instruction set of this machine.
fn case(name: &str) {
    for isa in cpus::isas() {
        for threads in THREADS {
            golden::case(&cpus::harness(isa, threads), &format!("{isa}, {threads} threads"), name);
        }
    }
}

#[test]
fn plans() {
    let text = std::fs::read_to_string(safetensors::golden("plans.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 40);
    for line in text.lines() {
        check_plan(&serde_json::from_str(line).unwrap());
    }
}

#[derive(serde::Deserialize)]
struct GoldenPlan {
    lengths: Vec<u32>,
    micro_sequence_length: usize,
    steps: Vec<GoldenStep>,
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct GoldenStep {
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

fn check_plan(golden: &GoldenPlan) {
    let plan = Plan::new(&golden.lengths, golden.micro_sequence_length).unwrap();
    let steps: Vec<_> = plan.steps().map(|step| describe(&step)).collect();
    assert_eq!(steps, golden.steps, "lengths {:?}", golden.lengths);
}

fn describe(step: &microseq::Step<'_>) -> GoldenStep {
    let entries = step.documents() + 1;
    let (mut q, mut k) = (vec![-1; entries], vec![-1; entries]);
    step.cu_seqlens(&mut q, &mut k).unwrap();
    GoldenStep {
        begin: step.begin(),
        end: step.end(),
        first_document_begin: step.first_document_begin(),
        cu_seqlens_q: q,
        cu_seqlens_k: k,
        max_seqlen_q: step.max_seqlen_q(),
        max_seqlen_k: step.max_seqlen_k(),
        min_seqlen_q: step.min_seqlen_q(),
        min_seqlen_k: step.min_seqlen_k(),
        document_index_q: step.document_index_q().collect(),
        document_index_k: step.document_index_k().collect(),
        position_index: step.position_index().collect(),
    }
}
