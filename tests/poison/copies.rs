//! Gathering, accumulating and flushing write all of their rows and nothing else.

use crate::common::cpus;
use crate::common::guarded::Guarded;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::{Arrangement, Random};
use microseq::{Accumulate, Device, Element, Flush, Gather, bf16, f16};
use std::ops::Range;

/// Rows of a store, its heads (keys and values) and their elements.
const ROWS: usize = 40;
const HEADS: usize = 6;
const HEAD_DIM: usize = 19;
const WIDTH: usize = HEADS * HEAD_DIM;
/// The rows that a call is about.
const PART: Range<usize> = 11..29;
/// What gaps and other rows hold. Not NaN, whose bits a copy may change.
const GUARD: f32 = -7.75;

fn for_each(run: impl Fn(&str, &Cpu, Arrangement, Arrangement)) {
    for threads in [1, 3] {
        let cpu = cpus::cpu(Isa::best(), threads);
        for from in Arrangement::ALL {
            for into in Arrangement::ALL {
                run(&format!("{threads} threads, from {from:?} into {into:?}"), &cpu, from, into);
            }
        }
    }
}

fn store<T: Element>(arrangement: Arrangement, value: f32) -> Guarded<T> {
    let layout = arrangement.layout(ROWS, HEADS, HEAD_DIM);
    Guarded::filled(layout, T::from_f32(value), T::from_f32(GUARD))
}

/// The rows of a call, NaN around them.
fn source<T: Element>(arrangement: Arrangement, dense: &[T]) -> Guarded<T> {
    let layout = arrangement.layout(dense.len() / WIDTH, HEADS, HEAD_DIM);
    Guarded::holding(layout, dense, T::from_f32(f32::NAN))
}

/// Dense rows `PART` of a store.
fn part<T: Element>(store: &Guarded<T>) -> Vec<T> {
    store.dense()[PART.start * WIDTH..PART.end * WIDTH].to_vec()
}

#[test]
fn gather() {
    gather_of::<f32>();
    gather_of::<f16>();
    gather_of::<bf16>();
}

fn gather_of<E: Element>() {
    let rows = Random::new(1).elements::<E>(PART.len() * WIDTH);
    // Shares of 5, 0 and 13 rows.
    let (first, last) = rows.split_at(5 * WIDTH);
    for_each(|what, cpu, from, into| {
        let shares = [source(from, first), source(from, &[]), source(Arrangement::Dense, last)];
        let shares: Vec<_> = shares.iter().map(Guarded::read_kv).collect();
        let mut store = store::<E>(into, f32::NAN);
        let into = store.write_kv().narrow(PART).unwrap();
        cpu.gather_into(Gather { from: &shares, into }).unwrap();
        assert!(part(&store) == rows, "{what}, {}: rows", E::DTYPE);
        store.assert_untouched_outside(what, &PART);
    });
}

#[test]
fn accumulate() {
    let rows = Random::new(2).elements::<f32>(PART.len() * WIDTH);
    for_each(|what, cpu, from, into| {
        let from = source(from, &rows);
        let mut store = store::<f32>(into, 3.0);
        let into = store.write_kv().narrow(PART).unwrap();
        cpu.accumulate(Accumulate { from: from.read_kv(), into }).unwrap();
        let sums: Vec<f32> = rows.iter().map(|x| 3.0 + x).collect();
        assert!(part(&store) == sums, "{what}: rows");
        store.assert_untouched_outside(what, &PART);
    });
}

#[test]
fn flush() {
    flush_of::<f32>();
    flush_of::<f16>();
    flush_of::<bf16>();
}

fn flush_of<E: Element>() {
    let rows = Random::new(3).elements::<f32>(PART.len() * WIDTH);
    for_each(|what, cpu, from, into| {
        let from = source(from, &rows);
        let mut store = store::<E>(into, f32::NAN);
        let into = store.write_kv().narrow(PART).unwrap();
        cpu.flush(Flush { from: from.read_kv(), into }).unwrap();
        let rounded: Vec<E> = rows.iter().map(|x| E::from_f32(*x)).collect();
        assert!(part(&store) == rounded, "{what}, {}: rows", E::DTYPE);
        store.assert_untouched_outside(what, &PART);
    });
}
