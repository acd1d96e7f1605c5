//! Foreign `cu_seqlens`: every short pair of lists against the definition, and each error by itself.

use microseq_core::{Attention, Batch, DType, Problem, Segment, Varlen, VarlenError};

/// Every list of up to `entries` numbers from -1 to 3.
fn lists(entries: usize) -> Vec<Vec<i32>> {
    let mut lists = vec![vec![]];
    let mut longest = lists.clone();
    for _ in 0..entries {
        let longer =
            |list: &Vec<i32>| (-1..4).map(|entry| [list.clone(), vec![entry]].concat()).collect::<Vec<_>>();
        longest = longest.iter().flat_map(longer).collect();
        lists.extend(longest.clone());
    }
    lists
}

/// Whether a list counts rows of a view of two.
fn is_legal(list: &[i32]) -> bool {
    !list.is_empty() && list[0] >= 0 && list.windows(2).all(|w| w[0] <= w[1]) && list[list.len() - 1] <= 2
}

#[test]
fn lists_are_legal_as_defined() {
    let lists = lists(3);
    for q in &lists {
        for k in &lists {
            let legal = is_legal(q) && is_legal(k) && q.len() == k.len();
            assert_eq!(Varlen::new(q, k, 2, 2).is_ok(), legal, "{q:?} {k:?}");
        }
    }
}

#[test]
fn segments_are_the_documents_with_queries() {
    let lists = lists(3);
    for q in lists.iter().filter(|list| is_legal(list)) {
        for k in lists.iter().filter(|k| is_legal(k) && k.len() == q.len()) {
            let batch = Batch::from(Varlen::new(q, k, 2, 2).unwrap());
            let expected: Vec<_> = (1..q.len())
                .filter(|&j| q[j] > q[j - 1])
                .map(|j| Segment {
                    q_begin: q[j - 1] as usize,
                    q_len: (q[j] - q[j - 1]) as usize,
                    k_begin: k[j - 1] as usize,
                    k_len: (k[j] - k[j - 1]) as usize,
                })
                .collect();
            assert_eq!(batch.segments().collect::<Vec<_>>(), expected, "{q:?} {k:?}");
        }
    }
}

#[test]
fn the_canonical_form_starts_at_zero() {
    let varlen = Varlen::new(&[2, 5, 5], &[3, 4, 9], 6, 9).unwrap();
    let (mut q, mut k) = ([-1; 4], [-1; 3]);
    let canonical = varlen.canonicalise(&mut q, &mut k).unwrap();
    assert_eq!((canonical.q, canonical.k), (&[0, 3, 3][..], &[0, 1, 6][..]));
    assert_eq!((varlen.first_query(), varlen.first_key()), (2, 3));
    assert_eq!(q, [0, 3, 3, -1]);
}

#[test]
fn the_canonical_form_is_its_own() {
    let varlen = Varlen::new(&[0, 3], &[0, 4], 3, 4).unwrap();
    let (mut q, mut k) = ([-1; 2], [-1; 2]);
    varlen.canonicalise(&mut q, &mut k).unwrap();
    assert_eq!((q, k), ([0, 3], [0, 4]));
}

#[test]
fn a_problem_has_the_rows_of_its_views() {
    let varlen = Varlen::new(&[2, 5], &[3, 4], 6, 9).unwrap();
    let problem = Problem::new(Attention::new(4, 2, 8).unwrap(), varlen, DType::Bf16).unwrap();
    let shape = problem.shape();
    assert_eq!((shape.q_rows, shape.k_rows, shape.heads, shape.kv_heads, shape.head_dim), (6, 9, 4, 2, 8));
    // Three queries, of which the last sees the one key.
    assert_eq!(problem.pairs(), 1);
    assert_eq!(problem.forward_flops(), 4.0 * 8.0 * 4.0);
}

#[test]
fn no_entries_are_refused() {
    assert_eq!(Varlen::new(&[], &[], 2, 2), Err(VarlenError::Empty));
}

#[test]
fn lists_of_two_lengths_are_refused() {
    assert_eq!(Varlen::new(&[0, 1, 2], &[0, 2], 2, 2), Err(VarlenError::Entries { q: 3, k: 2 }));
}

#[test]
fn queries_before_the_first_row_are_refused() {
    assert_eq!(Varlen::new(&[-2, 1], &[0, 1], 2, 2), Err(VarlenError::NegativeQ { first: -2 }));
}

#[test]
fn keys_before_the_first_row_are_refused() {
    assert_eq!(Varlen::new(&[0, 1], &[i32::MIN, 1], 2, 2), Err(VarlenError::NegativeK { first: i32::MIN }));
}

#[test]
fn falling_queries_are_refused() {
    let error = VarlenError::FallingQ { document: 1, before: 2, after: 1 };
    assert_eq!(Varlen::new(&[0, 2, 1], &[0, 1, 2], 2, 2), Err(error));
}

#[test]
fn falling_keys_are_refused() {
    let error = VarlenError::FallingK { document: 0, before: i32::MAX, after: i32::MIN };
    assert_eq!(Varlen::new(&[0, 1], &[i32::MAX, i32::MIN], 2, 2), Err(error));
}

#[test]
fn queries_behind_the_last_row_are_refused() {
    assert_eq!(Varlen::new(&[0, 3], &[0, 1], 2, 2), Err(VarlenError::BeyondQ { end: 3, rows: 2 }));
}

#[test]
fn keys_behind_the_last_row_are_refused() {
    let error = VarlenError::BeyondK { end: i32::MAX as usize, rows: 2 };
    assert_eq!(Varlen::new(&[0, 1], &[0, i32::MAX], 2, 2), Err(error));
}

#[test]
fn short_buffers_are_refused_and_left_alone() {
    let varlen = Varlen::new(&[0, 1, 2], &[0, 1, 2], 2, 2).unwrap();
    let (mut q, mut k) = ([-1; 3], [-1; 2]);
    assert_eq!(
        varlen.canonicalise(&mut q, &mut k),
        Err(VarlenError::BufferTooShort { expected: 3, given: 2 })
    );
    assert_eq!((q, k), ([-1; 3], [-1; 2]));
}
