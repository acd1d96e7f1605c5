//! What the rules share: operators that the device takes, data, runs, comparisons.

use crate::dev::run::call::{Data, Manner, Results, call};
use crate::dev::run::{Options, Outcome, Sequence, SequenceGradients, sequence};
use crate::dev::tensor::bits;
use crate::dev::{Harness, Quantity, Random, assert_within, cases, oracle, tolerance};
use crate::{Attention, Device, Element, Plan, Problem, Shape};
use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

/// A small operator with groups that the device takes on elements of this type, if there is one.
pub(super) fn operator<H: Harness, E: Element>(harness: &H) -> Option<Attention> {
    let head_dims = [16, 64, 128, 32, 8, 1];
    let operators = head_dims.into_iter().flat_map(|head_dim| {
        [(4, 2), (2, 1), (2, 2), (1, 1)].map(|(heads, kv_heads)| cases::operator(heads, kv_heads, head_dim))
    });
    operators.into_iter().find(|attention| harness.supports(attention, E::DTYPE))
}

/// Such operators, each with another mask; causal all of them.
pub(super) fn operators<H: Harness, E: Element>(harness: &H) -> Vec<Attention> {
    let Some(plain) = operator::<H, E>(harness) else { return vec![] };
    let window = plain.with_window(11).expect("a legal window");
    let softcap = plain.with_softcap(1.5).expect("a legal softcap");
    let all = [plain, window, softcap];
    all.into_iter().filter(|attention| harness.supports(attention, E::DTYPE)).collect()
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

/// Prepares and runs both passes.
#[track_caller]
pub(super) fn run<H: Harness, E: Element>(
    harness: &H,
    problem: &Problem<'_>,
    data: &Data<E>,
    manner: Manner,
) -> Results<E> {
    let prepared = harness.device().prepare(problem).unwrap_or_else(|e| panic!("prepare failed: {e}"));
    call(harness, &problem.shape(), &prepared, data, manner).unwrap_or_else(|e| panic!("{manner:?}: {e}"))
}

/// What the oracle says to a call into a store of zeros.
pub(super) fn expected<E: Element>(problem: &Problem<'_>, data: &Data<E>) -> oracle::Answer {
    let [q, k, v] = [&data.q, &data.k, &data.v].map(|x| oracle::widen(x));
    let dout = data.dout.as_ref().map(|dout| oracle::widen(dout));
    let inputs = oracle::Inputs { q: &q, k: &k, v: &v, dout: dout.as_deref() };
    oracle::attention(problem.attention(), problem.batch(), &inputs)
}

/// Checks results against the oracle's; gradients where there are some.
#[track_caller]
pub(super) fn assert_matches<E: Element>(name: &str, given: &Results<E>, expected: &oracle::Answer) {
    assert_matches_within(name, 0.0, given, expected);
}

/// As [`assert_matches`], with so much more tolerance.
#[track_caller]
pub(super) fn assert_matches_within<E: Element>(
    name: &str,
    more: f64,
    given: &Results<E>,
    expected: &oracle::Answer,
) {
    let close = |what, quantity, given: &[f64], expected: &[f64]| {
        assert_within(&format!("{name}: {what}"), tolerance(quantity, E::DTYPE) + more, given, expected);
    };
    close("out", Quantity::Out, &oracle::widen(&given.out), &expected.out);
    close("lse", Quantity::Lse, &oracle::widen(&given.lse), &expected.lse);
    let Some(gradients) = &given.gradients else { return };
    close("dq", Quantity::Gradient, &oracle::widen(&gradients.dq), &expected.dq);
    close("dk", Quantity::Gradient, &oracle::widen(&gradients.dk), &expected.dk);
    close("dv", Quantity::Gradient, &oracle::widen(&gradients.dv), &expected.dv);
}

/// Dense operands of a packed sequence.
pub(super) struct SequenceData<E> {
    pub(super) q: Vec<E>,
    pub(super) kv: Vec<E>,
    pub(super) dout: Vec<E>,
}

impl<E: Element> SequenceData<E> {
    pub(super) fn new(attention: &Attention, tokens: usize, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let q = tokens * attention.heads() * attention.head_dim();
        let kv = tokens * 2 * attention.kv_heads() * attention.head_dim();
        Self { q: random.elements(q), kv: random.elements(kv), dout: random.elements(q) }
    }

    /// Runs the sequence as a plan cuts it.
    #[track_caller]
    pub(super) fn run<H: Harness>(
        &self,
        harness: &H,
        plan: Plan<'_>,
        attention: Attention,
        ranks: usize,
    ) -> Outcome<E, SequenceGradients<E>> {
        self.run_with(harness, plan, attention, Options { ranks, ..Options::default() })
    }

    #[track_caller]
    pub(super) fn run_with<H: Harness>(
        &self,
        harness: &H,
        plan: Plan<'_>,
        attention: Attention,
        options: Options,
    ) -> Outcome<E, SequenceGradients<E>> {
        let inputs = Sequence { plan, attention, q: &self.q, kv: &self.kv, dout: Some(&self.dout) };
        sequence(harness, &inputs, options).unwrap_or_else(|e| panic!("a sequence failed: {e}"))
    }
}

/// Checks that two tensors have the same bits.
#[track_caller]
pub(super) fn assert_same_bits<E: Element>(what: &str, given: &[E], expected: &[E]) {
    assert_eq!(given.len(), expected.len(), "{what}: tensors of different sizes");
    let differs = |n: &usize| bits(given[*n]) != bits(expected[*n]);
    if let Some(n) = (0..given.len()).find(differs) {
        let count = (0..given.len()).filter(differs).count();
        panic!(
            "{what}: {count} of {} elements have other bits; the first, {n}: {:?}, expected {:?}",
            given.len(),
            given[n],
            expected[n]
        );
    }
}

/// Checks that an error names what is wrong: it, or what it stems from, says what `expected` says.
#[track_caller]
pub(super) fn assert_names<T>(
    what: &str,
    result: Result<T, impl core::error::Error + 'static>,
    expected: impl core::error::Error,
) {
    let Err(error) = result else { panic!("{what}: accepted, expected the error \"{expected}\"") };
    let mut link: Option<&dyn core::error::Error> = Some(&error);
    while let Some(error) = link {
        if error.to_string().contains(&expected.to_string()) {
            return;
        }
        link = error.source();
    }
    panic!("{what}: the error is \"{error}\", expected \"{expected}\"");
}
