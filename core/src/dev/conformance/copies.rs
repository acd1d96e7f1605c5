//! `gather_into`, `accumulate` and `flush` do what they say, through views of any arrangement.

use super::common::assert_same_bits;
use crate::dev::run::call::Manner;
use crate::dev::run::watched::{KvTensor, WatchedKv};
use crate::dev::{Harness, Random};
use crate::{Accumulate, DType, Device, Element, Flush, Gather, Shape, bf16, f16};
use std::vec;
use std::vec::Vec;

/// A shape of which only the K/V part matters.
fn kv_shape(rows: usize, kv_heads: usize, head_dim: usize) -> Shape {
    Shape { dtype: DType::F32, q_rows: 0, k_rows: rows, heads: kv_heads, kv_heads, head_dim }
}

const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 17;

/// Dense keys and values.
type Pair<T> = (Vec<T>, Vec<T>);

/// Numbers, and the values that copies tend to lose.
fn pair<E: Element>(rows: usize, seed: u64) -> Pair<E> {
    let random = &mut Random::new(seed);
    let mut elements = |specials: &[f32]| {
        let mut elements: Vec<E> = random.elements(rows * KV_HEADS * HEAD_DIM);
        elements.iter_mut().step_by(5).zip(specials.iter().cycle()).for_each(|(to, &x)| *to = E::from_f32(x));
        elements
    };
    (elements(&[-0.0, f32::INFINITY, 1e-40]), elements(&[0.0, f32::NEG_INFINITY, 6e4, 1e-7]))
}

fn tensor<E: Element>(rows: usize, manner: Manner, (k, v): &Pair<E>) -> KvTensor<E> {
    KvTensor::new(&kv_shape(rows, KV_HEADS, HEAD_DIM), manner, k, v, E::from_f32(-7.75))
}

/// A gather lays the shares one behind the other, bit for bit: shares of unequal size, empty ones,
/// one, none.
pub fn gather_copies_the_shares<H: Harness>(harness: &H) {
    gather::<H, f32>(harness);
    gather::<H, f16>(harness);
    gather::<H, bf16>(harness);
}

fn gather<H: Harness, E: Element>(harness: &H) {
    for rows in [vec![6], vec![3, 3], vec![1, 0, 4, 2], vec![0], vec![], vec![40, 41, 39]] {
        for manner in Manner::all() {
            gather_shares::<H, E>(harness, &rows, manner);
        }
    }
}

fn gather_shares<H: Harness, E: Element>(harness: &H, rows: &[usize], manner: Manner) {
    let pairs: Vec<Pair<E>> = rows.iter().zip(20..).map(|(&rows, seed)| pair(rows, seed)).collect();
    // The shares need not lie as the slot does.
    let other = Manner { packed: !manner.packed, ..Manner::default() };
    let manners = [manner, other].into_iter().cycle();
    let shares = rows.iter().zip(&pairs).zip(manners);
    let placed: Vec<_> =
        shares.map(|((&rows, pair), manner)| WatchedKv::new(harness, tensor(rows, manner, pair))).collect();
    let from: Vec<_> = placed.iter().map(|share| share.view(harness).expect("a legal view")).collect();

    let total = rows.iter().sum();
    let mut into = WatchedKv::new(harness, tensor(total, manner, &nothing::<E>(total)));
    let operands = Gather { from: &from, into: into.view_mut(harness).expect("a legal view") };
    harness.device().gather_into(operands).unwrap_or_else(|e| panic!("gather_into failed: {e}"));
    let (k, v) = into.take(harness);
    let concatenate =
        |part: fn(&Pair<E>) -> &Vec<E>| pairs.iter().flat_map(part).copied().collect::<Vec<E>>();
    assert_same_bits("keys, gathered", &k, &concatenate(|pair| &pair.0));
    assert_same_bits("values, gathered", &v, &concatenate(|pair| &pair.1));
}

/// Poison.
fn nothing<E: Element>(rows: usize) -> Pair<E> {
    let poison = vec![E::from_f32(f32::NAN); rows * KV_HEADS * HEAD_DIM];
    (poison.clone(), poison)
}

/// An accumulation adds, element by element, in f32.
pub fn accumulate_adds<H: Harness>(harness: &H) {
    for rows in [0, 1, 9, 130] {
        for manner in Manner::all() {
            let (addend, sum) = (pair::<f32>(rows, 30), pair::<f32>(rows, 31));
            let other = Manner { packed: !manner.packed, ..Manner::default() };
            let from = WatchedKv::new(harness, tensor(rows, other, &addend));
            let mut into = WatchedKv::new(harness, tensor(rows, manner, &sum));
            let operands = Accumulate {
                from: from.view(harness).expect("a legal view"),
                into: into.view_mut(harness).expect("a legal view"),
            };
            harness.device().accumulate(operands).unwrap_or_else(|e| panic!("accumulate failed: {e}"));
            let (k, v) = into.take(harness);
            let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f32>>();
            assert_same_bits("keys, accumulated", &k, &add(&sum.0, &addend.0));
            assert_same_bits("values, accumulated", &v, &add(&sum.1, &addend.1));
        }
    }
}

/// A flush rounds to nearest, ties to even.
pub fn flush_rounds<H: Harness>(harness: &H) {
    flush::<H, f32>(harness);
    flush::<H, f16>(harness);
    flush::<H, bf16>(harness);
}

fn flush<H: Harness, E: Element>(harness: &H) {
    for rows in [0, 1, 9, 130] {
        for manner in Manner::all() {
            let sealed = with_ties(pair::<f32>(rows, 32));
            let other = Manner { packed: !manner.packed, ..Manner::default() };
            let from = WatchedKv::new(harness, tensor(rows, other, &sealed));
            let mut into = WatchedKv::new(harness, tensor(rows, manner, &nothing::<E>(rows)));
            let operands = Flush {
                from: from.view(harness).expect("a legal view"),
                into: into.view_mut(harness).expect("a legal view"),
            };
            harness.device().flush(operands).unwrap_or_else(|e| panic!("flush failed: {e}"));
            let (k, v) = into.take(harness);
            let round = |x: &[f32]| x.iter().map(|&x| E::from_f32(x)).collect::<Vec<E>>();
            assert_same_bits("keys, flushed", &k, &round(&sealed.0));
            assert_same_bits("values, flushed", &v, &round(&sealed.1));
        }
    }
}

/// Puts in numbers half-way between two of a 16-bit type, and some that overflow one.
fn with_ties(mut pair: Pair<f32>) -> Pair<f32> {
    let ties = [1.0 + 0.00390625, 1.0 + 3.0 * 0.00390625, 1.0 + 0.00048828125, 65_520.0, 3.4e38, -65_519.0];
    pair.0.iter_mut().skip(2).step_by(7).zip(ties.iter().cycle()).for_each(|(to, &x)| *to = x);
    pair
}
