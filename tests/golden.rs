//! Every case of `tests/golden`, made elsewhere in float64 by an explicit masked softmax, on the CPU
//! device; and every plan of `plans.jsonl`, computed by Fast-LLM's own code.
//!
//! `tests/golden/README.md` says what the files hold.

mod common;

use common::cpus;
use common::safetensors::{File, Numbers, golden};
use microseq::dev::run::{self, Options, Sequence, VarlenBatch};
use microseq::dev::{HostHarness, Quantity, assert_close};
use microseq::{Attention, Element, Plan, Varlen, bf16, cpu::Cpu, f16};

/// Threads for the golden cases; `bits.rs` has more.
const THREADS: [usize; 2] = [1, 2];

macro_rules! cases {
    ($($run:ident::<$element:ty>: $($name:ident)+;)+) => {
        $($(
            #[test]
            fn $name() {
                $run::<$element>(stringify!($name));
            }
        )+)+

        const CASES: &[&str] = &[$($(stringify!($name)),+),+];
    };
}

cases! {
    sequence::<f32>: seq_f32_causal seq_f32_mqa_head320 seq_f32_noncausal seq_f32_padding_and_empty
        seq_f32_softcap seq_f32_window;
    sequence::<f16>: seq_f16_mha64;
    sequence::<bf16>: seq_bf16_gqa128 seq_bf16_window;
    op::<f32>: op_f32_bottom_right op_f32_fewer_keys op_f32_non_canonical;
}

#[test]
fn no_file_is_left_out() {
    let files = std::fs::read_dir(golden("")).expect("the directory is there");
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> =
        names.filter_map(|name| name.strip_suffix(".in.safetensors").map(str::to_owned)).collect();
    found.sort();
    let mut listed = CASES.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

/// A case in the sequence form, cut into steps of several lengths.
fn sequence<E: Numbers>(name: &str) {
    let (input, expected) = File::case(name);
    let (q, kv, dout) = (input.tensor::<E>("q"), input.tensor::<E>("kv"), input.tensor::<E>("dout"));
    let attention = attention(&input, q.shape[1], kv.shape[1] / 2, q.shape[2]);
    let lengths = input.lengths();
    let tokens = q.shape[0];
    for micro in micro_sequence_lengths(tokens, &attention) {
        let plan = Plan::padded(&lengths, tokens, micro).unwrap();
        let inputs =
            Sequence { plan, attention, q: &q.elements, kv: &kv.elements, dout: Some(&dout.elements) };
        for_each_cpu(|what, harness| {
            let what = format!("{name}, steps of {micro}, {what}");
            let result = run::sequence(harness, &inputs, Options::default()).unwrap();
            let gradients = result.gradients.unwrap();
            check(&what, &expected, "out", &result.out, E::DTYPE);
            check(&what, &expected, "lse", &result.lse, E::DTYPE);
            check(&what, &expected, "dq", &gradients.dq, E::DTYPE);
            check(&what, &expected, "dkv", &gradients.dkv, E::DTYPE);
        });
    }
}

/// A case in the op form, one call.
fn op<E: Numbers>(name: &str) {
    let (input, expected) = File::case(name);
    let (q, dout) = (input.tensor::<E>("q"), input.tensor::<E>("dout"));
    let (k, v) = (input.tensor::<E>("k"), input.tensor::<E>("v"));
    let (cu_seqlens_q, cu_seqlens_k) = (input.integers("cu_seqlens_q"), input.integers("cu_seqlens_k"));
    let inputs = VarlenBatch {
        varlen: Varlen::new(&cu_seqlens_q, &cu_seqlens_k, q.shape[0], k.shape[0]).unwrap(),
        attention: attention(&input, q.shape[1], k.shape[1], q.shape[2]),
        q: &q.elements,
        k: &k.elements,
        v: &v.elements,
        dout: Some(&dout.elements),
    };
    for_each_cpu(|what, harness| {
        let what = format!("{name}, {what}");
        let result = run::varlen(harness, &inputs).unwrap();
        let gradients = result.gradients.unwrap();
        check(&what, &expected, "out", &result.out, E::DTYPE);
        check(&what, &expected, "lse", &result.lse, E::DTYPE);
        check(&what, &expected, "dq", &gradients.dq, E::DTYPE);
        check(&what, &expected, "dk", &gradients.dk, E::DTYPE);
        check(&what, &expected, "dv", &gradients.dv, E::DTYPE);
    });
}

fn for_each_cpu(run: impl Fn(&str, &HostHarness<Cpu>)) {
    for isa in cpus::isas() {
        for threads in THREADS {
            run(&format!("{isa}, {threads} threads"), &cpus::harness(isa, threads));
        }
    }
}

fn attention(input: &File, heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let mut attention = Attention::new(heads, kv_heads, head_dim).unwrap();
    if input.number("causal") == Some(false) {
        attention = attention.non_causal();
    }
    if let Some(scale) = input.number("scale") {
        attention = attention.with_scale(scale).unwrap();
    }
    if let Some(window) = input.number("window") {
        attention = attention.with_window(window).unwrap();
    }
    if let Some(softcap) = input.number("softcap") {
        attention = attention.with_softcap(softcap).unwrap();
    }
    attention
}

/// Steps that cut documents everywhere, a few times, and not at all. Non-causal attention wants
/// whole documents.
fn micro_sequence_lengths(tokens: usize, attention: &Attention) -> Vec<usize> {
    if attention.mask().causal { vec![5, tokens.div_ceil(3), tokens] } else { vec![tokens, 2 * tokens] }
}

fn check<E: Element>(what: &str, expected: &File, name: &str, given: &[E], dtype: microseq::DType) {
    let quantity = match name {
        "out" => Quantity::Out,
        "lse" => Quantity::Lse,
        _ => Quantity::Gradient,
    };
    let given = microseq::dev::oracle::widen(given);
    assert_close(&format!("{what}: {name}"), quantity, dtype, &given, &expected.wide(name));
}

#[test]
fn plans() {
    let text = std::fs::read_to_string(golden("plans.jsonl")).unwrap();
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
