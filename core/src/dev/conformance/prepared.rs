//! Metadata is made once and used often; scratch may lie anywhere and hold anything.

use super::common::{assert_same_bits, data, operator, operators, run};
use crate::dev::Harness;
use crate::dev::cases::Documents;
use crate::dev::harness::PreparedOf;
use crate::dev::run::call::{Data, Manner, Results, call};
use crate::{Device, Element, bf16, f16};
use std::format;

/// Metadata prepared once serves any number of layers.
pub fn one_preparation_serves_all_layers<H: Harness>(harness: &H) {
    serves_layers::<H, f32>(harness);
    serves_layers::<H, f16>(harness);
    serves_layers::<H, bf16>(harness);
}

fn serves_layers<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        let documents = Documents::new(&[(30, 30), (2, 44), (9, 9)]);
        let problem = documents.problem::<E>(attention);
        let prepared = harness.device().prepare(&problem).unwrap_or_else(|e| panic!("prepare failed: {e}"));
        for layer in 0..3 {
            let data: Data<E> = data(&problem.shape(), 40 + layer);
            let given = call(harness, &problem.shape(), &prepared, &data, Manner::default())
                .unwrap_or_else(|e| panic!("layer {layer}: {e}"));
            let expected = run(harness, &problem, &data, Manner::default());
            assert_same_results(&format!("layer {layer}"), &given, &expected);
        }
    }
}

/// `prepare_into` over old metadata, of larger and smaller problems, of other operators and types,
/// gives what `prepare` gives.
pub fn prepare_into_forgets_the_old_problem<H: Harness>(harness: &H) {
    let Some(mut prepared) = any_preparation(harness) else { return };
    let many = Documents::new(&[(3, 3); 50]);
    let one = Documents::new(&[(90, 90)]);
    let none = Documents::placed(&[], (0, 0), (5, 5));
    for documents in [&one, &none, &many, &one] {
        reuse::<H, f32>(harness, &mut prepared, documents);
        reuse::<H, f16>(harness, &mut prepared, documents);
        reuse::<H, bf16>(harness, &mut prepared, documents);
    }
}

/// Metadata of a problem of any type that the device takes.
fn any_preparation<H: Harness>(harness: &H) -> Option<PreparedOf<H>> {
    let documents = Documents::new(&[(7, 7)]);
    let f32_problem = operator::<H, f32>(harness).map(|attention| documents.problem::<f32>(attention));
    let bf16_problem = || operator::<H, bf16>(harness).map(|attention| documents.problem::<bf16>(attention));
    let f16_problem = || operator::<H, f16>(harness).map(|attention| documents.problem::<f16>(attention));
    let problem = f32_problem.or_else(bf16_problem).or_else(f16_problem)?;
    Some(harness.device().prepare(&problem).unwrap_or_else(|e| panic!("prepare failed: {e}")))
}

fn reuse<H: Harness, E: Element>(harness: &H, prepared: &mut PreparedOf<H>, documents: &Documents) {
    for attention in operators::<H, E>(harness) {
        let problem = documents.problem::<E>(attention);
        let device = harness.device();
        device.prepare_into(&problem, prepared).unwrap_or_else(|e| panic!("prepare_into failed: {e}"));
        let data: Data<E> = data(&problem.shape(), 50);
        let given = call(harness, &problem.shape(), prepared, &data, Manner::default())
            .unwrap_or_else(|e| panic!("over reused metadata: {e}"));
        let expected = run(harness, &problem, &data, Manner::default());
        assert_same_results("over reused metadata", &given, &expected);
    }
}

/// Scratch of any alignment and content gives the same bits.
pub fn scratch_may_lie_anywhere_and_hold_anything<H: Harness>(harness: &H) {
    scratch::<H, f32>(harness);
    scratch::<H, f16>(harness);
    scratch::<H, bf16>(harness);
}

fn scratch<H: Harness, E: Element>(harness: &H) {
    let Some(attention) = operator::<H, E>(harness) else { return };
    let documents = Documents::new(&[(30, 30), (2, 44), (9, 0), (9, 9)]);
    let problem = documents.problem::<E>(attention);
    let data: Data<E> = data(&problem.shape(), 60);
    let expected = run(harness, &problem, &data, Manner { scratch_byte: 0, ..Manner::default() });
    for (scratch_offset, scratch_byte) in [(0, 0xff), (1, 0), (2, 0x7f), (3, 0xff), (4, 0x80), (37, 0x3f)] {
        let manner = Manner { scratch_offset, scratch_byte, ..Manner::default() };
        let given = run(harness, &problem, &data, manner);
        let what = format!("scratch {scratch_offset} bytes off, full of {scratch_byte:#x}");
        assert_same_results(&what, &given, &expected);
    }
}

#[track_caller]
fn assert_same_results<E: Element>(what: &str, given: &Results<E>, expected: &Results<E>) {
    assert_same_bits(&format!("out, {what}"), &given.out, &expected.out);
    assert_same_bits(&format!("lse, {what}"), &given.lse, &expected.lse);
    let (given, expected) = (given.gradients.as_ref(), expected.gradients.as_ref());
    let (given, expected) = (given.expect("dout was given"), expected.expect("dout was given"));
    assert_same_bits(&format!("dq, {what}"), &given.dq, &expected.dq);
    assert_same_bits(&format!("dk, {what}"), &given.dk, &expected.dk);
    assert_same_bits(&format!("dv, {what}"), &given.dv, &expected.dv);
}
