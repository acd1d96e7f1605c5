//! Results are right: they match the oracle.

use crate::dev::cases::{self, SequenceCase, VarlenCase};
use crate::dev::run::call::{Data, Manner, Results, call};
use crate::dev::run::{Options, Sequence, sequence};
use crate::dev::{Harness, Quantity, Random, assert_close, oracle};
use crate::{DType, Device, Element, Problem, Shape, bf16, f16};
use std::vec;
use std::vec::Vec;

/// Both passes over f32 match the oracle, whatever the documents, the operator and the views.
pub fn matches_the_oracle_in_f32<H: Harness>(harness: &H) {
    matches_the_oracle::<H, f32>(harness);
}

/// Both passes over f16 match the oracle, whatever the documents, the operator and the views.
pub fn matches_the_oracle_in_f16<H: Harness>(harness: &H) {
    matches_the_oracle::<H, f16>(harness);
}

/// Both passes over bf16 match the oracle, whatever the documents, the operator and the views.
pub fn matches_the_oracle_in_bf16<H: Harness>(harness: &H) {
    matches_the_oracle::<H, bf16>(harness);
}

/// Step by step over a slot, with ranks, both passes match the oracle over the whole sequence.
pub fn sequences_match_the_oracle<H: Harness>(harness: &H) {
    for case in cases::sequences() {
        sequence_matches::<H, f32>(harness, &case);
        sequence_matches::<H, bf16>(harness, &case);
    }
}

fn matches_the_oracle<H: Harness, E: Element>(harness: &H) {
    let manners: Vec<_> = Manner::all().collect();
    for (n, case) in cases::varlens().iter().enumerate() {
        varlen_matches::<H, E>(harness, case, manners[n % manners.len()]);
    }
}

fn varlen_matches<H: Harness, E: Element>(harness: &H, case: &VarlenCase, manner: Manner) {
    let varlen = case.varlen().expect("a legal case");
    let problem = Problem::new(case.attention, varlen, E::DTYPE).expect("a legal case");
    if !harness.supports(&case.attention, E::DTYPE) {
        assert!(harness.device().prepare(&problem).is_err(), "{}: prepared, though not supported", case.name);
        return;
    }
    let data = data::<E>(&problem.shape(), case.seed);
    let prepared = harness.device().prepare(&problem).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let results = call(harness, &problem.shape(), &prepared, &data, manner)
        .unwrap_or_else(|e| panic!("{}, {manner:?}: {e}", case.name));
    assert_matches(&case.name, E::DTYPE, &results, &expected(&problem, &data));
}

/// Seeded operands of a call, into a store of zeros.
pub(super) fn data<E: Element>(shape: &Shape, seed: u64) -> Data<E> {
    let random = &mut Random::new(seed);
    let q = shape.q_rows * shape.heads * shape.head_dim;
    let k = shape.k_rows * shape.kv_heads * shape.head_dim;
    Data {
        q: random.elements(q),
        k: random.elements(k),
        v: random.elements(k),
        dout: Some(random.elements(q)),
        dk: vec![0.0; k],
        dv: vec![0.0; k],
    }
}

/// What the oracle says to a call.
pub(super) fn expected<E: Element>(problem: &Problem<'_>, data: &Data<E>) -> oracle::Answer {
    let [q, k, v] = [&data.q, &data.k, &data.v].map(|x| oracle::widen(x));
    let dout = data.dout.as_ref().map(|dout| oracle::widen(dout));
    let inputs = oracle::Inputs { q: &q, k: &k, v: &v, dout: dout.as_deref() };
    oracle::attention(problem.attention(), problem.batch(), &inputs)
}

fn assert_matches<E: Element>(name: &str, dtype: DType, given: &Results<E>, expected: &oracle::Answer) {
    let close = |what, quantity, given: &[f64], expected: &[f64]| {
        assert_close(&std::format!("{name}: {what}"), quantity, dtype, given, expected);
    };
    close("out", Quantity::Out, &oracle::widen(&given.out), &expected.out);
    close("lse", Quantity::Lse, &oracle::widen(&given.lse), &expected.lse);
    let gradients = given.gradients.as_ref().expect("dout was given");
    close("dq", Quantity::Gradient, &oracle::widen(&gradients.dq), &expected.dq);
    close("dk", Quantity::Gradient, &oracle::widen(&gradients.dk), &expected.dk);
    close("dv", Quantity::Gradient, &oracle::widen(&gradients.dv), &expected.dv);
}

fn sequence_matches<H: Harness, E: Element>(harness: &H, case: &SequenceCase) {
    if !harness.supports(&case.attention, E::DTYPE) {
        return;
    }
    let plan = case.plan().expect("a legal case");
    let (heads, kv_heads, head_dim) =
        (case.attention.heads(), case.attention.kv_heads(), case.attention.head_dim());
    let random = &mut Random::new(case.seed);
    let q: Vec<E> = random.elements(case.tokens * heads * head_dim);
    let kv: Vec<E> = random.elements(case.tokens * 2 * kv_heads * head_dim);
    let dout: Vec<E> = random.elements(q.len());
    let inputs = Sequence { plan, attention: case.attention, q: &q, kv: &kv, dout: Some(&dout) };
    let outcome = sequence(harness, &inputs, Options { ranks: case.ranks })
        .unwrap_or_else(|e| panic!("{}: {e}", case.name));

    let wide = [&q, &kv, &dout].map(|x| oracle::widen(x));
    let expected = oracle::sequence(&plan, &case.attention, &wide[0], &wide[1], Some(&wide[2]));
    let gradients = outcome.gradients.expect("dout was given");
    let (dk, dv) = oracle::unpack(&gradients.dkv, kv_heads, head_dim);
    let results = Results {
        out: outcome.out,
        lse: outcome.lse,
        gradients: Some(crate::dev::run::call::Gradients { dq: gradients.dq, dk, dv }),
    };
    assert_matches(&case.name, E::DTYPE, &results, &expected);
}
