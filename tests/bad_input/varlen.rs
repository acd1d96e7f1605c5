//! Prefix sums that make no batch.

use crate::kind::{Kind, untouched};
use microseq::{Varlen, VarlenError};

/// Lists over views of 9 query rows and 12 key rows.
fn kind(name: &str, q: &[i32], k: &[i32], expected: VarlenError) -> Kind {
    Kind::new(name, Varlen::new(q, k, 9, 12), expected)
}

pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        kind("no prefix sums at all", &[], &[], VarlenError::Empty),
        kind("cu_seqlens_k alone", &[], &[0, 3], VarlenError::Empty),
        kind("more documents of keys", &[0, 3], &[0, 3, 4], VarlenError::Entries { q: 2, k: 3 }),
        kind("no documents of keys", &[0, 3], &[], VarlenError::Entries { q: 2, k: 0 }),
        kind("queries before the view", &[-1, 3], &[0, 3], VarlenError::NegativeQ { first: -1 }),
        kind("keys before the view", &[0, 3], &[i32::MIN, 3], VarlenError::NegativeK { first: i32::MIN }),
        kind(
            "a document of negative queries",
            &[0, 4, 3],
            &[0, 4, 8],
            VarlenError::FallingQ { document: 1, before: 4, after: 3 },
        ),
        kind(
            "a document of negative keys",
            &[0, 3, 4],
            &[2, 1, 8],
            VarlenError::FallingK { document: 0, before: 2, after: 1 },
        ),
        kind(
            "keys that wrap around",
            &[0, 3],
            &[0, i32::MIN],
            VarlenError::FallingK { document: 0, before: 0, after: i32::MIN },
        ),
        kind("queries behind the view", &[0, 10], &[0, 12], VarlenError::BeyondQ { end: 10, rows: 9 }),
        kind("keys behind the view", &[0, 9], &[5, 13], VarlenError::BeyondK { end: 13, rows: 12 }),
        short_buffer("a short buffer for canonical queries", 2, 3),
        short_buffer("a short buffer for canonical keys", 4, 1),
    ]
}

fn short_buffer(name: &str, q: usize, k: usize) -> Kind {
    let varlen = Varlen::new(&[1, 4, 9], &[2, 4, 9], 9, 12).unwrap();
    let result = untouched(name, q, |q| untouched(name, k, |k| varlen.canonicalise(q, k).map(|_| ())));
    Kind::new(name, result, VarlenError::BufferTooShort { expected: 3, given: q.min(k) })
}
