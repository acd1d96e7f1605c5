//! `dk` and `dv` are added to what the store holds, in f32, and their bits do not depend on chance.

use super::common::{SequenceData, assert_same_bits, data, expected, operators, run};
use crate::dev::cases::Documents;
use crate::dev::run::Options;
use crate::dev::run::call::{Data, Manner};
use crate::dev::{Harness, Quantity, Random, assert_close, oracle};
use crate::{Element, Plan, bf16, f16};
use std::format;
use std::vec;
use std::vec::Vec;

/// The backward pass adds to what the gradient store holds, in f32, and the forward pass and `dq`
/// overwrite.
pub fn gradients_add_to_the_store<H: Harness>(harness: &H) {
    add_to_store::<H, f32>(harness);
    add_to_store::<H, f16>(harness);
    add_to_store::<H, bf16>(harness);
}

fn add_to_store<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        let documents = Documents::new(&[(40, 40), (3, 25), (1, 1)]);
        let problem = documents.problem::<E>(attention);
        let mut data = data::<E>(&problem.shape(), 11);
        fill_store(&mut data);
        let expected = expected(&problem, &data);
        let gradients = run(harness, &problem, &data, Manner::default()).gradients.expect("dout was given");
        for (what, given, before, added) in
            [("dk", &gradients.dk, &data.dk, &expected.dk), ("dv", &gradients.dv, &data.dv, &expected.dv)]
        {
            let sum: Vec<f64> = oracle::widen(before).iter().zip(added).map(|(a, b)| a + b).collect();
            let what = format!("{what}, added to a store that held something");
            assert_close(&what, Quantity::Gradient, E::DTYPE, &oracle::widen(given), &sum);
        }
    }
}

/// Where the output's gradient is 0, so is everything that is added: the store keeps its values, to
/// the last bit of f32.
pub fn a_gradient_of_zero_adds_nothing<H: Harness>(harness: &H) {
    zero_adds_nothing::<H, f32>(harness);
    zero_adds_nothing::<H, f16>(harness);
    zero_adds_nothing::<H, bf16>(harness);
}

fn zero_adds_nothing<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        let documents = Documents::new(&[(40, 40), (3, 25), (1, 1)]);
        let problem = documents.problem::<E>(attention);
        let mut data = data::<E>(&problem.shape(), 12);
        fill_store(&mut data);
        data.dout = Some(vec![E::from_f32(0.0); data.q.len()]);
        let gradients = run(harness, &problem, &data, Manner::default()).gradients.expect("dout was given");
        assert_same_bits("dk after a gradient of 0", &gradients.dk, &data.dk);
        assert_same_bits("dv after a gradient of 0", &gradients.dv, &data.dv);
        assert!(gradients.dq.iter().all(|x| x.to_f32() == 0.0), "dq of a gradient of 0 is not 0");
    }
}

/// A device that is told which rows of the gradient store hold zeros gives the same bits as one that is not:
/// in sequences whose documents end in a step, go on behind it or behind a rank's share of it, and in padding.
pub fn a_zeroed_store_has_the_same_bits<H: Harness>(harness: &H) {
    zeroed_is_the_same::<H, f32>(harness);
    zeroed_is_the_same::<H, f16>(harness);
    zeroed_is_the_same::<H, bf16>(harness);
}

fn zeroed_is_the_same<H: Harness, E: Element>(harness: &H) {
    let (lengths, tokens) = (&[33, 1, 8, 150, 0, 40, 24], 260);
    for attention in operators::<H, E>(harness) {
        let data = SequenceData::<E>::new(&attention, tokens, 16);
        for (micro_sequence_length, ranks) in [(tokens, 1), (64, 1), (50, 3), (7, 1)] {
            let run = |zeroed_store| {
                let plan = Plan::padded(lengths, tokens, micro_sequence_length).expect("a legal plan");
                data.run_with(harness, plan, attention, Options { ranks, zeroed_store })
            };
            let (given, expected) = (run(true), run(false));
            let (given, expected) = (given.gradients, expected.gradients);
            let (given, expected) = (given.expect("dout was given"), expected.expect("dout was given"));
            let what = format!("steps of {micro_sequence_length} rows, {ranks} ranks, {}", E::DTYPE);
            assert_same_bits(&format!("dq, told of zeros, {what}"), &given.dq, &expected.dq);
            assert_same_bits(&format!("dkv, told of zeros, {what}"), &given.dkv, &expected.dkv);
        }
    }
}

/// Values that no 16-bit type holds.
fn fill_store<E: Element>(data: &mut Data<E>) {
    let random = &mut Random::new(13);
    data.dk = random.elements(data.dk.len());
    data.dv = random.elements(data.dv.len());
}

/// The same call gives the same bits, every time.
pub fn results_repeat_bit_for_bit<H: Harness>(harness: &H) {
    repeat::<H, f32>(harness);
    repeat::<H, f16>(harness);
    repeat::<H, bf16>(harness);
}

fn repeat<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        let documents = Documents::new(&[(200, 200), (30, 30), (5, 5), (5, 5), (90, 150)]);
        let problem = documents.problem::<E>(attention);
        let data = data::<E>(&problem.shape(), 14);
        let first = run(harness, &problem, &data, Manner::default());
        let expected = first.gradients.expect("dout was given");
        for _ in 0..4 {
            let again = run(harness, &problem, &data, Manner::default());
            let given = again.gradients.expect("dout was given");
            assert_same_bits("out, run again", &again.out, &first.out);
            assert_same_bits("lse, run again", &again.lse, &first.lse);
            assert_same_bits("dq, run again", &given.dq, &expected.dq);
            assert_same_bits("dk, run again", &given.dk, &expected.dk);
            assert_same_bits("dv, run again", &given.dv, &expected.dv);
        }
    }
}

/// `dk` and `dv` have the same bits for every cut into steps that the harness's
/// [`dkv_grain`](Harness::dkv_grain) claims.
pub fn steps_do_not_change_gradient_bits<H: Harness>(harness: &H) {
    steps_do_not_change::<H, f32>(harness);
    steps_do_not_change::<H, f16>(harness);
    steps_do_not_change::<H, bf16>(harness);
}

fn steps_do_not_change<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        let Some(grain) = harness.dkv_grain(&attention, E::DTYPE) else { continue };
        let Cuts { lengths, micro_sequence_lengths } = Cuts::at(grain);
        let tokens = lengths.iter().sum::<u32>() as usize + 5;
        let data = SequenceData::<E>::new(&attention, tokens, 15);
        let run = |micro_sequence_length| {
            let plan = Plan::padded(&lengths, tokens, micro_sequence_length).expect("a legal plan");
            data.run(harness, plan, attention, 1).gradients.expect("dout was given").dkv
        };
        let whole = run(tokens);
        for &micro_sequence_length in &micro_sequence_lengths {
            let what = format!("dkv in steps of {micro_sequence_length} rows, {}", E::DTYPE);
            assert_same_bits(&what, &run(micro_sequence_length), &whole);
        }
    }
}

/// Documents and steps that cut them at multiples of a grain from their begins only.
struct Cuts {
    lengths: Vec<u32>,
    micro_sequence_lengths: Vec<usize>,
}

impl Cuts {
    fn at(grain: usize) -> Self {
        let (lengths, cuts): (&[u32], &[usize]) = match grain {
            ..16 => (&[37, 1, 90, 12], &[1, 7, 16, 33, 100]),
            16..256 => (&[3, 1, 5], &[1, 2, 3, 4]),
            _ => (&[2, 1, 2], &[1, 2, 3]),
        };
        let mut lengths: Vec<u32> = lengths.iter().map(|length| length * grain as u32).collect();
        // All but the last must end at a multiple; it may end anywhere.
        *lengths.last_mut().expect("there are documents") += grain as u32 / 2;
        Self { lengths, micro_sequence_lengths: cuts.iter().map(|cut| cut * grain).collect() }
    }
}
