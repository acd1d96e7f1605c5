//! Every output is written, nothing else is, and rows of no document give nothing.

use super::common::{assert_matches, assert_same_bits, data, expected, operator, operators, run};
use crate::dev::Harness;
use crate::dev::cases::Documents;
use crate::dev::run::call::{Data, Manner, Results};
use crate::{Element, Problem, Shape, bf16, f16};
use core::ops::Range;
use std::format;
use std::vec;
use std::vec::Vec;

/// Strided, head-major, packed and separate views: every element of an output is written, and
/// nothing around or between its rows.
pub fn writes_its_views_and_nothing_else<H: Harness>(harness: &H) {
    writes_views::<H, f32>(harness);
    writes_views::<H, f16>(harness);
    writes_views::<H, bf16>(harness);
}

fn writes_views<H: Harness, E: Element>(harness: &H) {
    let Some(attention) = operator::<H, E>(harness) else { return };
    let documents = Documents::placed(&[(33, 33), (5, 40), (9, 0), (1, 1)], (2, 3), (4, 1));
    let problem = documents.problem::<E>(attention);
    let data = data::<E>(&problem.shape(), 5);
    let expected = expected(&problem, &data);
    for manner in Manner::all() {
        // The call itself looks at the gaps.
        let results = run(harness, &problem, &data, manner);
        assert_matches(&format!("{manner:?}"), &results, &expected);
    }
}

/// Rows of no document, and queries that see no key, give `out = 0`, `lse = -inf`, `dq = 0`; the
/// gradient rows of keys of no document keep their bits. Whatever their inputs hold, NaN too.
pub fn rows_of_no_document_give_nothing<H: Harness>(harness: &H) {
    rows_of_no_document::<H, f32>(harness);
    rows_of_no_document::<H, f16>(harness);
    rows_of_no_document::<H, bf16>(harness);
}

fn rows_of_no_document<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        // Queries 0..3 of the second document stand before its keys.
        let documents = Documents::placed(&[(6, 6), (8, 5), (4, 0), (0, 3), (20, 20)], (3, 5), (7, 2));
        let problem = documents.problem::<E>(attention);
        let shape = problem.shape();
        let no_queries = [0..3, 9..12, 17..21, 41..48];
        let no_keys = [0..5, 16..19, 39..41];
        let mut data = data::<E>(&shape, 6);
        let outside_queries = [no_queries[0].clone(), no_queries[3].clone()];
        let outside_keys = [no_keys[0].clone(), no_keys[2].clone()];
        spoil(&mut data, &shape, &outside_queries, &outside_keys);

        let results = run(harness, &problem, &data, Manner::default());
        for row in no_queries.into_iter().flatten() {
            assert_query_gives_nothing(&shape, &results, row);
        }
        let width = shape.kv_heads * shape.head_dim;
        let gradients = results.gradients.expect("dout was given");
        for rows in no_keys {
            let places = rows.start * width..rows.end * width;
            let what = format!("gradients of keys {rows:?}, which no document has queries for");
            assert_same_bits(&what, &gradients.dk[places.clone()], &data.dk[places.clone()]);
            assert_same_bits(&what, &gradients.dv[places.clone()], &data.dv[places]);
        }
        assert!(results.out.iter().all(|x| x.to_f32().is_finite()), "out of a document took in other rows");
        assert!(gradients.dq.iter().all(|x| x.to_f32().is_finite()), "dq of a document took in other rows");
    }
}

/// Puts NaN into inputs and negative zeros into gradient rows.
fn spoil<E: Element>(data: &mut Data<E>, shape: &Shape, queries: &[Range<usize>], keys: &[Range<usize>]) {
    let nan = E::from_f32(f32::NAN);
    let dout = data.dout.as_mut().expect("dout was made");
    for row in queries.iter().cloned().flatten() {
        let width = shape.heads * shape.head_dim;
        data.q[row * width..(row + 1) * width].fill(nan);
        dout[row * width..(row + 1) * width].fill(nan);
    }
    data.dk.fill(-0.0);
    data.dv.fill(-0.0);
    for row in keys.iter().cloned().flatten() {
        let width = shape.kv_heads * shape.head_dim;
        data.k[row * width..(row + 1) * width].fill(nan);
        data.v[row * width..(row + 1) * width].fill(nan);
    }
}

fn assert_query_gives_nothing<E: Element>(shape: &Shape, results: &Results<E>, row: usize) {
    let width = shape.heads * shape.head_dim;
    let is_zero = |x: &E| x.to_f32() == 0.0;
    assert!(results.out[row * width..(row + 1) * width].iter().all(is_zero), "out of row {row} is not 0");
    let gradients = results.gradients.as_ref().expect("dout was given");
    assert!(gradients.dq[row * width..(row + 1) * width].iter().all(is_zero), "dq of row {row} is not 0");
    let lse: Vec<_> = (0..shape.heads).map(|head| results.lse[head * shape.q_rows + row]).collect();
    assert_eq!(lse, vec![f32::NEG_INFINITY; shape.heads], "lse of row {row}");
}

/// No rows, no documents, no keys, padding alone: legal, and the answer is nothing.
pub fn nothing_to_do_is_done<H: Harness>(harness: &H) {
    nothing_to_do::<H, f32>(harness);
    nothing_to_do::<H, f16>(harness);
    nothing_to_do::<H, bf16>(harness);
}

fn nothing_to_do<H: Harness, E: Element>(harness: &H) {
    for attention in operators::<H, E>(harness) {
        for documents in [
            Documents::new(&[]),
            Documents::new(&[(0, 0), (0, 0)]),
            Documents::placed(&[], (0, 0), (6, 4)),
            Documents::placed(&[], (3, 0), (0, 5)),
            Documents::new(&[(5, 0), (3, 0)]),
            Documents::new(&[(0, 5), (0, 3)]),
        ] {
            let problem = documents.problem::<E>(attention);
            gives_nothing::<H, E>(harness, &problem);
        }
    }
}

fn gives_nothing<H: Harness, E: Element>(harness: &H, problem: &Problem<'_>) {
    let shape = problem.shape();
    let mut data = data::<E>(&shape, 7);
    data.dk.fill(2.5);
    data.dv.fill(-0.0);
    let results = run(harness, problem, &data, Manner::default());
    for row in 0..shape.q_rows {
        assert_query_gives_nothing(&shape, &results, row);
    }
    let gradients = results.gradients.expect("dout was given");
    assert_same_bits("dk where there is nothing to do", &gradients.dk, &data.dk);
    assert_same_bits("dv where there is nothing to do", &gradients.dv, &data.dv);
}
