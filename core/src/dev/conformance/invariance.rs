//! `out`, `lse` and `dq` of a document have the same bits whatever is packed around it, wherever it
//! lies, and however the sequence is cut.

use super::common::{SequenceData, assert_same_bits, data, operators, run};
use crate::dev::Harness;
use crate::dev::cases::Documents;
use crate::dev::run::call::{Data, Manner, Results};
use crate::dev::run::{Outcome, SequenceGradients};
use crate::{Attention, Element, Plan, Shape, bf16, f16};
use std::format;
use std::vec;
use std::vec::Vec;

/// A document packed among others, of any values, has the bits that it has alone.
pub fn packing_does_not_change_bits<H: Harness>(harness: &H) {
    packing::<H, f32>(harness);
    packing::<H, f16>(harness);
    packing::<H, bf16>(harness);
}

fn packing<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        for document in [(1, 1), (37, 37), (5, 60), (140, 140)] {
            let alone = Documents::new(&[document]);
            let problem = alone.problem::<E>(attention);
            let own = data::<E>(&problem.shape(), 8);
            let expected = run(harness, &problem, &own, Manner::default());
            for packing in packings(document) {
                let given = packing.run(harness, attention, &own);
                let what = format!("document {document:?} in {packing:?}, {}", E::DTYPE);
                assert_same_bits(&format!("out of {what}"), &given.out, &expected.out);
                assert_same_bits(&format!("lse of {what}"), &given.lse, &expected.lse);
                let (given, expected) = (given.gradients, expected.gradients.as_ref());
                let dq = (given.expect("dout was given").dq, &expected.expect("dout was given").dq);
                assert_same_bits(&format!("dq of {what}"), &dq.0, dq.1);
            }
        }
    }
}

/// What surrounds the document.
#[derive(Clone, Copy, Debug)]
enum Neighbours {
    Ordinary,
    NotANumber,
    Infinite,
}

/// A document among others.
#[derive(Debug)]
struct Packing {
    before: Vec<(usize, usize)>,
    document: (usize, usize),
    behind: Vec<(usize, usize)>,
    /// `(q, k)` rows of no document, at the begin and at the end.
    around: (usize, usize),
    neighbours: Neighbours,
}

fn packings(document: (usize, usize)) -> impl Iterator<Item = Packing> {
    let places = [
        (vec![(1, 1)], vec![], (0, 0)),
        (vec![], vec![(30, 30)], (0, 0)),
        (vec![(13, 13), (0, 0), (3, 3)], vec![(2, 2), (50, 50)], (0, 0)),
        (vec![(70, 70)], vec![(5, 9)], (3, 2)),
        (vec![(7, 11)], vec![(4, 4)], (1, 33)),
    ];
    places.into_iter().flat_map(move |(before, behind, around)| {
        [Neighbours::Ordinary, Neighbours::NotANumber, Neighbours::Infinite].map(|neighbours| Packing {
            before: before.clone(),
            document,
            behind: behind.clone(),
            around,
            neighbours,
        })
    })
}

impl Packing {
    /// The document's part of the results.
    fn run<H: Harness, E: Element>(&self, harness: &H, attention: Attention, own: &Data<E>) -> Results<E> {
        let documents = [self.before.clone(), vec![self.document], self.behind.clone()].concat();
        let documents = Documents::placed(&documents, self.around, self.around);
        let problem = documents.problem::<E>(attention);
        let shape = problem.shape();
        let q_begin = documents.cu_seqlens_q[self.before.len()] as usize;
        let k_begin = documents.cu_seqlens_k[self.before.len()] as usize;

        let mut packed = self.neighbours(&shape);
        let (q_width, k_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        insert(&mut packed.q, q_begin * q_width, &own.q);
        insert(&mut packed.k, k_begin * k_width, &own.k);
        insert(&mut packed.v, k_begin * k_width, &own.v);
        let own_dout = own.dout.as_ref().expect("dout was made");
        insert(packed.dout.as_mut().expect("dout was made"), q_begin * q_width, own_dout);

        let mut results = run(harness, &problem, &packed, Manner::default());
        let q = q_begin * q_width..(q_begin + self.document.0) * q_width;
        results.out = results.out[q.clone()].to_vec();
        results.lse = columns(&results.lse, shape.q_rows, q_begin..q_begin + self.document.0);
        let gradients = results.gradients.as_mut().expect("dout was given");
        gradients.dq = gradients.dq[q].to_vec();
        results
    }

    fn neighbours<E: Element>(&self, shape: &Shape) -> Data<E> {
        let mut data = data::<E>(shape, 9);
        let special = match self.neighbours {
            Neighbours::Ordinary => return data,
            Neighbours::NotANumber => E::from_f32(f32::NAN),
            Neighbours::Infinite => E::from_f32(f32::INFINITY),
        };
        let dout = data.dout.as_mut().expect("dout was made");
        for tensor in [&mut data.q, &mut data.k, &mut data.v, dout] {
            tensor.fill(special);
        }
        data
    }
}

fn insert<E: Element>(into: &mut [E], begin: usize, from: &[E]) {
    into[begin..begin + from.len()].copy_from_slice(from);
}

/// Some columns of a `[heads, rows]` tensor.
fn columns(lse: &[f32], rows: usize, columns: core::ops::Range<usize>) -> Vec<f32> {
    lse.chunks_exact(rows).flat_map(|head| head[columns.clone()].iter().copied()).collect()
}

/// Cutting a sequence into steps changes no bit of `out`, `lse` and `dq`.
pub fn steps_do_not_change_bits<H: Harness>(harness: &H) {
    let cuts = [1, 7, 16, 33, 64, 100, 200].map(|micro_sequence_length| (micro_sequence_length, 1));
    cuts_do_not_change::<H, f32>(harness, &cuts);
    cuts_do_not_change::<H, f16>(harness, &cuts);
    cuts_do_not_change::<H, bf16>(harness, &cuts);
}

/// Sharing steps among ranks changes no bit of `out`, `lse` and `dq`.
pub fn ranks_do_not_change_bits<H: Harness>(harness: &H) {
    let cuts = [(TOKENS, 2), (TOKENS, 3), (100, 4), (33, 5), (16, 7), (3, 4)];
    cuts_do_not_change::<H, f32>(harness, &cuts);
    cuts_do_not_change::<H, f16>(harness, &cuts);
    cuts_do_not_change::<H, bf16>(harness, &cuts);
}

const LENGTHS: [u32; 6] = [37, 1, 0, 170, 12, 30];
/// The documents, and padding.
const TOKENS: usize = 256;

/// Each cut is a micro-sequence length and a number of ranks.
fn cuts_do_not_change<H: Harness, E: Element>(harness: &H, cuts: &[(usize, usize)]) {
    for attention in operators::<H, E>(harness) {
        let data = SequenceData::<E>::new(&attention, TOKENS, 10);
        let run = |micro_sequence_length, ranks| {
            let plan = Plan::padded(&LENGTHS, TOKENS, micro_sequence_length).expect("a legal plan");
            data.run(harness, plan, attention, ranks)
        };
        let whole = run(TOKENS, 1);
        for &(micro_sequence_length, ranks) in cuts {
            let what = format!("steps of {micro_sequence_length} rows on {ranks} ranks, {}", E::DTYPE);
            assert_same_queries(&what, &run(micro_sequence_length, ranks), &whole);
        }
    }
}

fn assert_same_queries<E: Element>(
    what: &str,
    given: &Outcome<E, SequenceGradients<E>>,
    expected: &Outcome<E, SequenceGradients<E>>,
) {
    assert_same_bits(&format!("out in {what}"), &given.out, &expected.out);
    assert_same_bits(&format!("lse in {what}"), &given.lse, &expected.lse);
    let dq = |outcome: &Outcome<E, SequenceGradients<E>>| {
        outcome.gradients.as_ref().expect("dout was given").dq.clone()
    };
    assert_same_bits(&format!("dq in {what}"), &dq(given), &dq(expected));
}
