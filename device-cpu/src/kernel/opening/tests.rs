//! Documents that are nothing but an opening, against float64; and which rows an opening has.

use super::OPENING;
use crate::kernel::backward::{row_blocks, rows_of_block};
use crate::kernel::rows::DocumentRows;
use crate::{Cpu, Isa};
use microseq_core::dev::run::{self, Outcome, VarlenBatch, VarlenGradients};

use microseq_core::dev::{HostHarness, Quantity, Random, assert_close, oracle};
use microseq_core::{Attention, Element, Mask, Segment, Varlen, bf16, f16};
use std::format;
use std::vec::Vec;

/// Operands of documents of `(q_len, k_len)`.
struct Operands<E> {
    cu_seqlens_q: Vec<i32>,
    cu_seqlens_k: Vec<i32>,
    q: Vec<E>,
    k: Vec<E>,
    v: Vec<E>,
    dout: Vec<E>,
}

impl<E: Element> Operands<E> {
    fn random(attention: &Attention, documents: &[(usize, usize)]) -> Self {
        let mut random = Random::new(4);
        let sums = |len: fn(&(usize, usize)) -> usize| {
            let sum = |sum: &mut usize, document| {
                *sum += len(document);
                Some(*sum as i32)
            };
            core::iter::once(0).chain(documents.iter().scan(0, sum)).collect::<Vec<i32>>()
        };
        let (cu_seqlens_q, cu_seqlens_k) = (sums(|document| document.0), sums(|document| document.1));
        let elements =
            |sums: &[i32], heads: usize| sums[documents.len()] as usize * heads * attention.head_dim();
        let (rows, keys) =
            (elements(&cu_seqlens_q, attention.heads()), elements(&cu_seqlens_k, attention.kv_heads()));
        let (q, dout) = (random.elements(rows), random.elements(rows));
        let (k, v) = (random.elements(keys), random.elements(keys));
        Self { cu_seqlens_q, cu_seqlens_k, q, k, v, dout }
    }

    fn varlen(&self) -> Varlen<'_> {
        let rows = |sums: &[i32]| sums[sums.len() - 1] as usize;
        let (q, k) = (&self.cu_seqlens_q, &self.cu_seqlens_k);
        Varlen::new(q, k, rows(q), rows(k)).expect("legal prefix sums")
    }

    fn run(&self, isa: Isa, attention: Attention) -> Outcome<E, VarlenGradients<E>> {
        let cpu = Cpu::with_threads(1).and_then(|cpu| cpu.with_isa(isa)).expect("a thread and the isa");
        let Self { q, k, v, dout, .. } = self;
        let batch = VarlenBatch { varlen: self.varlen(), attention, q, k, v, dout: Some(dout) };
        run::varlen(&HostHarness::new(cpu), &batch).expect("legal operands")
    }
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// Groups that fill a tile of registers, part one and are parted by batches; head_dims in whole chunks of
/// words and not; scores of every kind.
fn operators() -> Vec<Attention> {
    let new = |heads, kv_heads, head_dim| Attention::new(heads, kv_heads, head_dim).expect("legal");
    let capped = new(3, 1, 48).with_softcap(1.5).and_then(|a| a.with_window(2)).expect("legal");
    std::vec![
        new(4, 1, 64),
        new(2, 2, 128),
        new(6, 2, 16),
        new(5, 1, 33).with_window(3).expect("legal"),
        new(24, 1, 80).with_scale(-0.3).expect("legal"),
        new(2, 1, 1).with_scale(0.0).expect("legal"),
        new(8, 2, 288).with_window(5).expect("legal"),
        capped,
    ]
}

#[test]
fn openings_are_right() {
    are_right::<f32>();
    are_right::<f16>();
    are_right::<bf16>();
}

fn are_right<E: Element>() {
    // Every length, also behind a past, and queries before the first key.
    let mut documents: Vec<_> = (1..=OPENING).map(|tokens| (tokens, tokens)).collect();
    documents.extend([(3, 8), (1, 7), (5, 6), (9, 4), (0, 3), (2, 0)]);
    for attention in operators() {
        let operands = Operands::<E>::random(&attention, &documents);
        let (q, k, v) = (oracle::widen(&operands.q), oracle::widen(&operands.k), oracle::widen(&operands.v));
        let dout = oracle::widen(&operands.dout);
        let inputs = oracle::Inputs { q: &q, k: &k, v: &v, dout: Some(&dout) };
        let expected = oracle::attention(&attention, &operands.varlen().into(), &inputs);
        for isa in isas() {
            let given = operands.run(isa, attention);
            let gradients = given.gradients.expect("dout was given");
            let check = |name: &str, quantity, given: &[f64], expected: &[f64]| {
                let what = format!("{name}, {isa}, {}, {attention:?}", E::DTYPE);
                assert_close(&what, quantity, E::DTYPE, given, expected);
            };
            let widen = |x: &[f32]| oracle::widen(x);
            check("out", Quantity::Out, &oracle::widen(&given.out), &expected.out);
            check("lse", Quantity::Lse, &widen(&given.lse), &expected.lse);
            check("dq", Quantity::Gradient, &oracle::widen(&gradients.dq), &expected.dq);
            check("dk", Quantity::Gradient, &widen(&gradients.dk), &expected.dk);
            check("dv", Quantity::Gradient, &widen(&gradients.dv), &expected.dv);
        }
    }
}

#[test]
fn a_row_of_one_key_has_its_value_and_no_gradient() {
    only_keys::<f32>();
    only_keys::<f16>();
    only_keys::<bf16>();
}

fn only_keys<E: Element>() {
    let new = |head_dim| Attention::new(3, 3, head_dim).expect("legal");
    let operators = [
        new(64),
        new(20).with_scale(-0.7).expect("legal"),
        new(32).with_softcap(2.0).expect("legal"),
        new(16).with_window(1).expect("legal"),
    ];
    for attention in operators {
        let one = attention.mask().window.is_some();
        let documents: &[_] = if one { &[(8, 8), (2, 5)] } else { &[(1, 1); 3] };
        let operands = Operands::<E>::random(&attention, documents);
        for isa in isas() {
            let what = format!("{isa}, {}, {attention:?}", E::DTYPE);
            let given = operands.run(isa, attention);
            let gradients = given.gradients.expect("dout was given");
            if !one {
                assert_eq!(given.out, operands.v, "out, {what}");
                assert_eq!(oracle::widen(&gradients.dv), oracle::widen(&operands.dout), "dv, {what}");
            }
            assert!(gradients.dq.iter().all(|x| x.to_f32().to_bits() == 0), "dq, {what}");
            assert!(gradients.dk.iter().all(|x| x.to_bits() == 0), "dk, {what}");
        }
    }
}

fn document(q_len: usize, k_len: usize, group: usize, mask: Mask) -> DocumentRows {
    let segment = Segment { q_begin: 3, q_len, k_begin: 5, k_len };
    DocumentRows { segment, mask, group, first_head: 0 }
}

#[test]
fn a_rows_place_in_its_document_says_whether_it_is_in_the_opening() {
    let opening = |q_len, k_len| document(q_len, k_len, 3, Mask::CAUSAL).opening();
    for (q_len, k_len, tokens) in [
        (1, 1, 1),
        (8, 8, 8),
        (9, 9, 8),
        (500, 500, 8),
        (4, 7, 4),
        (6, 9, 5),
        (6, 13, 1),
        (6, 14, 0),
        (1, 90, 0),
    ] {
        assert_eq!(opening(q_len, k_len), 3 * tokens, "{q_len} queries, {k_len} keys");
    }
    assert_eq!(document(4, 4, 3, Mask::FULL).opening(), 0, "rows that see all keys, however many");
}

#[test]
fn blocks_of_rows_hold_every_row_behind_the_opening_once() {
    for group in [1, 2, 3, 4, 5, 8, 64] {
        for (q_len, k_len) in [(1, 1), (8, 8), (9, 9), (40, 40), (130, 130), (20, 25), (64, 72)] {
            let rows = document(q_len, k_len, group, Mask::CAUSAL);
            let mut behind = rows.opening();
            for index in 0..row_blocks(&rows) {
                let block = rows_of_block(&rows, index);
                assert_eq!(block.start, behind);
                assert!(!block.is_empty() && block.len() <= crate::kernel::ROWS);
                assert!(index < 1 || block.start.is_multiple_of(32), "{block:?}");
                assert!(index < 2 || block.start.is_multiple_of(64), "{block:?}");
                behind = block.end;
            }
            assert_eq!(behind, rows.len(), "{q_len} queries, {k_len} keys, group {group}");
        }
    }
}
