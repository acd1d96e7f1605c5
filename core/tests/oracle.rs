//! The oracle against central differences and against answers known without it.
#![cfg(feature = "dev")]

use microseq_core::dev::Random;
use microseq_core::dev::oracle::{Answer, Inputs, attention, sequence};
use microseq_core::{Attention, Batch, Plan, Varlen};

/// Documents with as many keys as queries, more, fewer and none; rows of no document around them.
const CU_SEQLENS_Q: [i32; 5] = [1, 4, 8, 12, 13];
const CU_SEQLENS_K: [i32; 5] = [2, 7, 11, 13, 13];
const Q_ROWS: usize = 15;
const K_ROWS: usize = 14;

fn batch() -> Batch<'static> {
    Varlen::new(&CU_SEQLENS_Q, &CU_SEQLENS_K, Q_ROWS, K_ROWS).unwrap().into()
}

fn operators() -> Vec<Attention> {
    let plain = Attention::new(4, 2, 3).unwrap();
    vec![
        plain,
        plain.non_causal(),
        plain.with_window(2).unwrap(),
        plain.non_causal().with_window(2).unwrap(),
        plain.with_softcap(0.8).unwrap(),
        plain.with_scale(-1.3).unwrap(),
        plain.with_scale(2.0).unwrap().with_softcap(1.5).unwrap().with_window(3).unwrap(),
    ]
}

/// Q, K, V and dout.
fn tensors(operator: &Attention) -> [Vec<f64>; 4] {
    let random = &mut Random::new(1);
    let (heads, kv_heads, head_dim) = (operator.heads(), operator.kv_heads(), operator.head_dim());
    let (q, k) = (Q_ROWS * heads * head_dim, K_ROWS * kv_heads * head_dim);
    [q, k, k, q].map(|n| (0..n).map(|_| f64::from(random.normal())).collect())
}

fn answer(operator: &Attention, [q, k, v, dout]: &[Vec<f64>; 4]) -> Answer {
    attention(operator, &batch(), &Inputs { q, k, v, dout: Some(dout) })
}

/// What the gradients are gradients of.
fn loss(operator: &Attention, tensors: &[Vec<f64>; 4]) -> f64 {
    answer(operator, tensors).out.iter().zip(&tensors[3]).map(|(out, dout)| out * dout).sum()
}

#[test]
fn gradients_match_central_differences() {
    const H: f64 = 1e-4;
    for operator in operators() {
        let tensors = tensors(&operator);
        let Answer { dq, dk, dv, .. } = answer(&operator, &tensors);
        for (tensor, gradient) in [dq, dk, dv].iter().enumerate() {
            for (element, &given) in gradient.iter().enumerate() {
                let at = |x: f64| {
                    let mut moved = tensors.clone();
                    moved[tensor][element] += x;
                    loss(&operator, &moved)
                };
                let expected = (at(H) - at(-H)) / (2.0 * H);
                let difference = (given - expected).abs();
                assert!(
                    difference < 1e-6,
                    "{operator:?}, tensor {tensor}, element {element}: {given}, {expected}"
                );
            }
        }
    }
}

/// With scale 0 a query weighs all keys that it sees alike, so lse tells their number.
fn visible(operator: Attention, q_len: i32, k_len: i32) -> Vec<usize> {
    let operator = operator.with_scale(0.0).unwrap();
    let (q, k) = ([0, q_len], [0, k_len]);
    let varlen = Varlen::new(&q, &k, q_len as usize, k_len as usize).unwrap();
    let zeros = [0.0; 32];
    let inputs = Inputs { q: &zeros, k: &zeros, v: &zeros, dout: None };
    let lse = attention(&operator, &varlen.into(), &inputs).lse;
    lse.iter().map(|lse| lse.exp().round() as usize).collect()
}

#[test]
fn masks_align_bottom_right() {
    let causal = Attention::new(1, 1, 1).unwrap();
    assert_eq!(visible(causal, 3, 3), [1, 2, 3]);
    assert_eq!(visible(causal, 3, 5), [3, 4, 5]);
    assert_eq!(visible(causal, 5, 3), [0, 0, 1, 2, 3]);
    let window = causal.with_window(2).unwrap();
    assert_eq!(visible(window, 3, 3), [1, 2, 2]);
    assert_eq!(visible(window, 3, 5), [2, 2, 2]);
    assert_eq!(visible(window, 5, 3), [0, 0, 1, 2, 2]);
}

#[test]
fn without_causality_a_window_bounds_below_only() {
    let full = Attention::new(1, 1, 1).unwrap().non_causal();
    assert_eq!(visible(full, 3, 5), [5, 5, 5]);
    assert_eq!(visible(full, 5, 3), [3, 3, 3, 3, 3]);
    let window = full.with_window(2).unwrap();
    assert_eq!(visible(window, 3, 5), [4, 3, 2]);
    assert_eq!(visible(window, 3, 3), [3, 3, 2]);
}

#[test]
fn query_heads_share_kv_heads_in_order() {
    // One key: out is its value, of the K/V head that the query head uses.
    let operator = Attention::new(4, 2, 1).unwrap();
    let varlen = Varlen::new(&[0, 1], &[0, 1], 1, 1).unwrap();
    let inputs = Inputs { q: &[0.0; 4], k: &[0.0; 2], v: &[10.0, 20.0], dout: Some(&[1.0, 2.0, 3.0, 4.0]) };
    let answer = attention(&operator, &varlen.into(), &inputs);
    assert_eq!(answer.out, [10.0, 10.0, 20.0, 20.0]);
    assert_eq!(answer.dv, [3.0, 7.0]);
}

#[test]
fn scale_and_softcap_apply_to_the_product() {
    // One key: lse is its score.
    let operator = Attention::new(1, 1, 2).unwrap().with_scale(0.5).unwrap();
    let score = |operator: &Attention| {
        let varlen = Varlen::new(&[0, 1], &[0, 1], 1, 1).unwrap();
        let inputs = Inputs { q: &[3.0, 2.0], k: &[4.0, -1.0], v: &[0.0; 2], dout: None };
        attention(operator, &varlen.into(), &inputs).lse[0]
    };
    assert_eq!(score(&operator), 5.0);
    let capped = score(&operator.with_softcap(2.0).unwrap());
    assert!((capped - 2.0 * 2.5f64.tanh()).abs() < 1e-12);
}

#[test]
fn rows_of_no_document_get_nothing() {
    let operator = Attention::new(4, 2, 3).unwrap();
    let answer = answer(&operator, &tensors(&operator));
    // Queries 8 and 9 stand before the keys of their document, query 12's has none.
    for row in [0, 8, 9, 12, 13, 14] {
        assert!(answer.out[row * 12..(row + 1) * 12].iter().all(|&x| x == 0.0), "out of row {row}");
        assert!(answer.dq[row * 12..(row + 1) * 12].iter().all(|&x| x == 0.0), "dq of row {row}");
        assert!((0..4).all(|head| answer.lse[head * Q_ROWS + row] == f64::NEG_INFINITY), "lse of row {row}");
    }
    for row in [0, 1, 13] {
        assert!(answer.dk[row * 6..(row + 1) * 6].iter().all(|&x| x == 0.0), "dk of row {row}");
        assert!(answer.dv[row * 6..(row + 1) * 6].iter().all(|&x| x == 0.0), "dv of row {row}");
    }
}

#[test]
fn a_sequence_is_the_varlen_batch_of_its_lengths() {
    let operator = Attention::new(2, 1, 2).unwrap();
    let plan = Plan::padded(&[3, 0, 4], 9, 2).unwrap();
    let random = &mut Random::new(2);
    let mut tensor = |n: usize| (0..n).map(|_| f64::from(random.normal())).collect::<Vec<_>>();
    let (q, k, v, dout) = (tensor(36), tensor(18), tensor(18), tensor(36));
    let kv = microseq_core::dev::oracle::pack(&k, &v, 1, 2);
    let varlen = Varlen::new(&[0, 3, 3, 7], &[0, 3, 3, 7], 9, 9).unwrap();
    let inputs = Inputs { q: &q, k: &k, v: &v, dout: Some(&dout) };
    assert_eq!(
        sequence(&plan, &operator, &q, &kv, Some(&dout)),
        attention(&operator, &varlen.into(), &inputs)
    );
}
