//! Gradients against finite differences, in two halves that meet at the oracle: central differences
//! through a forward pass in f32 are too coarse to say much, so
//! - the float64 oracle's gradients must agree with central differences of its own forward pass, to
//!   about ten digits;
//! - the CPU's results must agree with the oracle's to within a few roundings of f32, by the largest
//!   error of any element and not only on average.

mod common;

use common::cpus;
use microseq::dev::Random;
use microseq::dev::oracle::{self, Answer, Inputs};
use microseq::dev::run::{self, VarlenBatch};
use microseq::{Attention, Batch, Varlen};

/// A batch whose queries see their document in every way there is: as many keys as queries, more, and
/// fewer, none at all, and rows of no document.
struct Shape {
    cu_seqlens_q: &'static [i32],
    cu_seqlens_k: &'static [i32],
    q_rows: usize,
    k_rows: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { cu_seqlens_q: &[0, 5], cu_seqlens_k: &[0, 5], q_rows: 5, k_rows: 5 },
    Shape { cu_seqlens_q: &[0, 3, 4, 8], cu_seqlens_k: &[0, 7, 8, 12], q_rows: 8, k_rows: 12 },
    Shape { cu_seqlens_q: &[1, 5, 7, 9], cu_seqlens_k: &[2, 4, 4, 9], q_rows: 10, k_rows: 10 },
];

fn operators() -> Vec<Attention> {
    let new = |heads, kv_heads, head_dim| Attention::new(heads, kv_heads, head_dim).unwrap();
    vec![
        new(1, 1, 4),
        new(4, 2, 3),
        new(2, 1, 5).with_window(2).unwrap(),
        new(2, 2, 4).with_softcap(0.7).unwrap(),
        new(2, 1, 4).with_scale(-1.5).unwrap(),
        new(2, 1, 4).non_causal(),
        new(2, 2, 3).non_causal().with_window(3).unwrap().with_softcap(1.5).unwrap(),
    ]
}

/// Operands in f32, which float64 holds exactly.
struct Operands {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

fn for_each_case(run: impl Fn(&str, &Attention, Varlen<'_>, &Operands)) {
    for attention in operators() {
        for shape in &SHAPES {
            let Shape { cu_seqlens_q, cu_seqlens_k, q_rows, k_rows } = *shape;
            let mut random = Random::new(13);
            let q = q_rows * attention.heads() * attention.head_dim();
            let k = k_rows * attention.kv_heads() * attention.head_dim();
            let mut elements = |n| random.elements::<f32>(n);
            let operands = Operands { q: elements(q), k: elements(k), v: elements(k), dout: elements(q) };
            let varlen = Varlen::new(cu_seqlens_q, cu_seqlens_k, q_rows, k_rows).unwrap();
            run(&format!("{attention:?}, {cu_seqlens_q:?}, {cu_seqlens_k:?}"), &attention, varlen, &operands);
        }
    }
}

#[test]
fn oracle_against_central_differences() {
    for_each_case(|what, attention, varlen, operands| {
        let wide = Wide::new(operands);
        let answer = wide.answer(attention, varlen);
        let visible: f64 = answer.dv.iter().map(|x| x.abs()).sum();
        assert!(visible > 0.1, "{what}: there is something to differentiate");
        for (name, operand, gradient) in
            [("dq", Operand::Q, &answer.dq), ("dk", Operand::K, &answer.dk), ("dv", Operand::V, &answer.dv)]
        {
            for (n, &given) in gradient.iter().enumerate() {
                let difference = wide.central_difference(attention, varlen, operand, n);
                // The truncation is of order STEP^2, the rounding of order 1e-16 / STEP.
                let error = (given - difference).abs();
                assert!(error < 2e-9, "{what}: {name}[{n}] is {given}, central difference {difference}");
            }
        }
    });
}

/// Half the distance of the two points of a difference.
const STEP: f64 = 1e-5;

#[derive(Clone, Copy)]
enum Operand {
    Q,
    K,
    V,
}

/// Operands in float64.
#[derive(Clone)]
struct Wide {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
}

impl Wide {
    fn new(operands: &Operands) -> Self {
        let Operands { q, k, v, dout } = operands;
        let wide = oracle::widen::<f32>;
        Self { q: wide(q), k: wide(k), v: wide(v), dout: wide(dout) }
    }

    fn answer(&self, attention: &Attention, varlen: Varlen<'_>) -> Answer {
        let Self { q, k, v, dout } = self;
        oracle::attention(attention, &Batch::Varlen(varlen), &Inputs { q, k, v, dout: Some(dout) })
    }

    /// The scalar whose gradients backward computes: the output weighted with dout.
    fn loss(&self, attention: &Attention, varlen: Varlen<'_>) -> f64 {
        let Self { q, k, v, dout } = self;
        let answer = oracle::attention(attention, &Batch::Varlen(varlen), &Inputs { q, k, v, dout: None });
        answer.out.iter().zip(dout).map(|(out, dout)| out * dout).sum()
    }

    fn central_difference(
        &self,
        attention: &Attention,
        varlen: Varlen<'_>,
        operand: Operand,
        n: usize,
    ) -> f64 {
        let moved = |by: f64| {
            let mut moved = self.clone();
            let elements = match operand {
                Operand::Q => &mut moved.q,
                Operand::K => &mut moved.k,
                Operand::V => &mut moved.v,
            };
            elements[n] += by;
            moved.loss(attention, varlen)
        };
        (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
    }
}

#[test]
fn cpu_against_oracle() {
    for_each_case(|what, attention, varlen, operands| {
        let expected = Wide::new(operands).answer(attention, varlen);
        let Operands { q, k, v, dout } = operands;
        let batch = VarlenBatch { varlen, attention: *attention, q, k, v, dout: Some(dout) };
        for isa in cpus::isas() {
            let what = format!("{isa}, {what}");
            let outcome = run::varlen(&cpus::harness(isa, 1), &batch).unwrap();
            let gradients = outcome.gradients.unwrap();
            let score = largest(&expected.lse);
            let check = |name, given: &[f32], expected: &[f64]| {
                check(&format!("{what}: {name}"), given, expected, score);
            };
            check("out", &outcome.out, &expected.out);
            check("lse", &outcome.lse, &expected.lse);
            check("dq", &gradients.dq, &expected.dq);
            check("dk", &gradients.dk, &expected.dk);
            check("dv", &gradients.dv, &expected.dv);
        }
    });
}

/// The largest error, in units of the largest element's last place, for scores of magnitude 1. A score's
/// own rounding is a relative error of its weight, and grows with it.
const ROUNDINGS: f64 = 4.0;

#[track_caller]
fn check(what: &str, given: &[f32], expected: &[f64], score: f64) {
    let allowed = ROUNDINGS * f64::from(f32::EPSILON) * largest(expected).max(1.0) * score.max(1.0);
    for (n, (&given, &expected)) in given.iter().zip(expected).enumerate() {
        let given = f64::from(given);
        let right = given == expected || (given - expected).abs() <= allowed;
        assert!(right, "{what}[{n}] is {given}, the oracle says {expected}, allowed are {allowed:e}");
    }
}

/// The largest finite magnitude.
fn largest(tensor: &[f64]) -> f64 {
    tensor.iter().filter(|x| x.is_finite()).fold(0.0, |largest, x| largest.max(x.abs()))
}
