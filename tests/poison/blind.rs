//! Queries that see nothing, rows of no document, keys that nobody sees. The drivers poison outputs
//! with NaN.

use crate::common::{cpus, operators};
use microseq::dev::Random;
use microseq::dev::run::{self, Options, Sequence, VarlenBatch};
use microseq::{Attention, Element, Plan, Segment, Varlen, bf16, f16};

/// 16 query rows: two of no document, 4 queries over 2 keys, 3 over none, none over 5, 5 over 5, and
/// two of no document again.
const CU_SEQLENS_Q: [i32; 5] = [2, 6, 9, 9, 14];
/// 15 key rows, of which the first and the last two are of no document.
const CU_SEQLENS_K: [i32; 5] = [1, 3, 3, 8, 13];
const Q_ROWS: usize = 16;
const K_ROWS: usize = 15;

#[test]
fn varlen_rows_that_see_or_are_seen_by_nobody() {
    for attention in [operators::causal(), operators::non_causal()].concat() {
        varlen::<f32>(attention);
        varlen::<f16>(attention);
        varlen::<bf16>(attention);
    }
}

fn varlen<E: Element>(attention: Attention) {
    let mut random = Random::new(5);
    let q_width = attention.heads() * attention.head_dim();
    let k_width = attention.kv_heads() * attention.head_dim();
    let (q, dout) = (random.elements::<E>(Q_ROWS * q_width), random.elements::<E>(Q_ROWS * q_width));
    let (k, v) = (random.elements::<E>(K_ROWS * k_width), random.elements::<E>(K_ROWS * k_width));
    let varlen = Varlen::new(&CU_SEQLENS_Q, &CU_SEQLENS_K, Q_ROWS, K_ROWS).unwrap();
    let batch = VarlenBatch { varlen, attention, q: &q, k: &k, v: &v, dout: Some(&dout) };
    let (sees, is_seen) = visible(&attention);
    for isa in cpus::isas() {
        let what = format!("{isa}, {}, {attention:?}", E::DTYPE);
        let outcome = run::varlen(&cpus::harness(isa, 2), &batch).unwrap();
        let gradients = outcome.gradients.unwrap();
        check_rows(&format!("{what}: out"), &outcome.out, &sees);
        check_rows(&format!("{what}: dq"), &gradients.dq, &sees);
        check_rows(&format!("{what}: dk"), &gradients.dk, &is_seen);
        check_rows(&format!("{what}: dv"), &gradients.dv, &is_seen);
        for head in outcome.lse.chunks_exact(Q_ROWS) {
            check_lse(&format!("{what}: lse"), head, &sees);
        }
    }
}

/// Which queries see a key, and which keys a query sees.
fn visible(attention: &Attention) -> (Vec<bool>, Vec<bool>) {
    let (mut sees, mut is_seen) = (vec![false; Q_ROWS], vec![false; K_ROWS]);
    for document in 0..CU_SEQLENS_Q.len() - 1 {
        let segment = segment(document);
        for i in 0..segment.q_len {
            for j in attention.mask().keys(i, segment.q_len, segment.k_len) {
                sees[segment.q_begin + i] = true;
                is_seen[segment.k_begin + j] = true;
            }
        }
    }
    (sees, is_seen)
}

fn segment(document: usize) -> Segment {
    let rows = |cu: &[i32]| (cu[document] as usize, (cu[document + 1] - cu[document]) as usize);
    let ((q_begin, q_len), (k_begin, k_len)) = (rows(&CU_SEQLENS_Q), rows(&CU_SEQLENS_K));
    Segment { q_begin, q_len, k_begin, k_len }
}

/// Every row is finite; those that take no part are 0.
#[track_caller]
fn check_rows<T: Element>(what: &str, tensor: &[T], takes_part: &[bool]) {
    let width = tensor.len() / takes_part.len();
    for (row, elements) in tensor.chunks_exact(width).enumerate() {
        let mut elements = elements.iter().map(|x| x.to_f32());
        if takes_part[row] {
            assert!(elements.all(f32::is_finite), "{what}, row {row}: not finite");
        } else {
            assert!(elements.all(|x| x == 0.0), "{what}, row {row}: not 0");
        }
    }
}

#[track_caller]
fn check_lse(what: &str, lse: &[f32], sees: &[bool]) {
    for (row, lse) in lse.iter().enumerate() {
        let right = if sees[row] { lse.is_finite() } else { *lse == f32::NEG_INFINITY };
        assert!(right, "{what}, row {row}: {lse}");
    }
}

/// Padding that holds NaN, in steps that hold documents, both, and padding alone.
#[test]
fn padding_rows() {
    const TOKENS: usize = 90;
    const DOCUMENTS_END: usize = 51;
    for attention in operators::causal() {
        let poisoned = |width: usize| {
            let mut tensor = Random::new(6).elements::<f32>(TOKENS * width);
            tensor[DOCUMENTS_END * width..].fill(f32::NAN);
            tensor
        };
        let q = poisoned(attention.heads() * attention.head_dim());
        let kv = poisoned(2 * attention.kv_heads() * attention.head_dim());
        let takes_part: Vec<_> = (0..TOKENS).map(|row| row < DOCUMENTS_END).collect();
        for (isa, micro) in cpus::isas().flat_map(|isa| [16, TOKENS].map(|micro| (isa, micro))) {
            let what = format!("{isa}, steps of {micro}, {attention:?}");
            let plan = Plan::padded(&[20, 0, 31], TOKENS, micro).unwrap();
            let inputs = Sequence { plan, attention, q: &q, kv: &kv, dout: Some(&q) };
            let outcome = run::sequence(&cpus::harness(isa, 1), &inputs, Options::default()).unwrap();
            let gradients = outcome.gradients.unwrap();
            check_rows(&format!("{what}: out"), &outcome.out, &takes_part);
            check_rows(&format!("{what}: dq"), &gradients.dq, &takes_part);
            check_rows(&format!("{what}: dkv"), &gradients.dkv, &takes_part);
            for head in outcome.lse.chunks_exact(TOKENS) {
                check_lse(&format!("{what}: lse"), head, &takes_part);
            }
        }
    }
}
