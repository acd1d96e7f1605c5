//! Results are right: they match the oracle.

use super::common::{SequenceData, assert_matches, assert_matches_within, data, expected, operator, run};
use crate::dev::cases::{self, Documents, SequenceCase, VarlenCase};
use crate::dev::run::call::{Data, Gradients, Manner, Results};
use crate::dev::{Harness, Random, oracle};
use crate::{Device, Element, Problem, bf16, f16};
use std::format;
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

fn matches_the_oracle<H: Harness, E: Element>(harness: &H) {
    let manners: Vec<_> = Manner::all().collect();
    for (n, case) in cases::varlens().iter().enumerate() {
        varlen_matches::<H, E>(harness, case, manners[n % manners.len()]);
    }
}

/// Where the device does not take the operator, it says so.
fn varlen_matches<H: Harness, E: Element>(harness: &H, case: &VarlenCase, manner: Manner) {
    let varlen = case.varlen().expect("a legal case");
    let problem = Problem::new(case.attention, varlen, E::DTYPE).expect("a legal case");
    if !harness.supports(&case.attention, E::DTYPE) {
        assert!(harness.device().prepare(&problem).is_err(), "{}: prepared, though not supported", case.name);
        return;
    }
    let data = data::<E>(&problem.shape(), case.seed);
    let results = run(harness, &problem, &data, manner);
    assert_matches(&case.name, &results, &expected(&problem, &data));
}

/// Step by step over a slot, with ranks, both passes match the oracle over the whole sequence. The
/// device takes at least one of the operators.
pub fn sequences_match_the_oracle<H: Harness>(harness: &H) {
    let mut taken = 0;
    for case in cases::sequences() {
        taken += usize::from(sequence_matches::<H, f32>(harness, &case));
        taken += usize::from(sequence_matches::<H, f16>(harness, &case));
        taken += usize::from(sequence_matches::<H, bf16>(harness, &case));
    }
    assert!(taken > 0, "the harness supports none of the suite's operators: nothing was tested");
}

/// Whether the device takes the operator.
fn sequence_matches<H: Harness, E: Element>(harness: &H, case: &SequenceCase) -> bool {
    let attention = case.attention;
    if !harness.supports(&attention, E::DTYPE) {
        return false;
    }
    let plan = case.plan().expect("a legal case");
    let data = SequenceData::<E>::new(&attention, case.tokens, case.seed);
    let outcome = data.run(harness, plan, attention, case.ranks);

    let [q, kv, dout] = [&data.q, &data.kv, &data.dout].map(|x| oracle::widen(x));
    let expected = oracle::sequence(&plan, &attention, &q, &kv, Some(&dout));
    let gradients = outcome.gradients.expect("dout was given");
    let (dk, dv) = oracle::unpack(&gradients.dkv, attention.kv_heads(), attention.head_dim());
    let gradients = Some(Gradients { dq: gradients.dq, dk, dv });
    let results = Results { out: outcome.out, lse: outcome.lse, gradients };
    assert_matches(&case.name, &results, &expected);
    true
}

/// Scores whose exponentials overflow or vanish in f32 give what the oracle gives.
pub fn large_scores_neither_overflow_nor_vanish<H: Harness>(harness: &H) {
    large_scores::<H, f32>(harness);
    large_scores::<H, f16>(harness);
    large_scores::<H, bf16>(harness);
}

fn large_scores<H: Harness, E: Element>(harness: &H) {
    let Some(attention) = operator::<H, E>(harness) else { return };
    let attention = attention.with_scale(1.0).expect("a legal scale");
    let documents = Documents::new(&[(20, 20), (7, 50), (1, 1)]);
    let problem = documents.problem::<E>(attention);
    for (offset, sign) in [(12.0, 1.0), (12.0, -1.0), (96.0, 1.0), (96.0, -1.0)] {
        let mut data = data::<E>(&problem.shape(), 3);
        offset_scores(&mut data, attention.head_dim(), offset, sign);
        let mut results = run(harness, &problem, &data, Manner::default());
        let mut expected = expected(&problem, &data);
        // Along the offset dq is a sum that cancels: all its digits are rounding errors.
        expected.dq.iter_mut().step_by(attention.head_dim()).for_each(|x| *x = 0.0);
        if let Some(gradients) = &mut results.gradients {
            gradients.dq.iter_mut().step_by(attention.head_dim()).for_each(|x| *x = E::from_f32(0.0));
        }
        // A score's last bit, and lse's, is what the exponential is off by.
        let rounding = 4.0 * f64::from(offset * offset * f32::EPSILON);
        let name = format!("scores around {}", offset * offset * sign);
        assert_matches_within(&name, rounding, &results, &expected);
    }
}

/// Moves every score by `sign * offset^2`; what is beside are small integers.
fn offset_scores<E: Element>(data: &mut Data<E>, head_dim: usize, offset: f32, sign: f32) {
    let random = &mut Random::new(4);
    for (tensor, first) in [(&mut data.q, offset), (&mut data.k, sign * offset)] {
        for (n, element) in tensor.iter_mut().enumerate() {
            let small = random.choose(&[-1.0, 0.0, 1.0]);
            *element = E::from_f32(if n % head_dim == 0 { first } else { small });
        }
    }
}
