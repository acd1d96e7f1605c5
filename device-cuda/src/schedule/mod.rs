//! Who works on what, in which order: exact lists of tiles, longest first, made once for all layers.
//! Twin of `kernels/schedule.cuh`, which has the words: query rows, positions, turns.
//!
//! This file has what all kernels share and the lists of most; those for compute capability 9.0 are cut
//! differently (`wgmma.rs`).

mod order;
mod parts;
mod shares;
pub(crate) mod wgmma;

pub(crate) use parts::part;

use crate::CudaError;
use crate::args::Tile;
use crate::shape::Shape;
use core::cmp::Reverse;
use core::ops::Range;
use microseq_core::{Attention, Problem, Segment};

/// What the kernels' 32-bit numbers leave room for: rows, query rows of a document, and a tile more.
const LIMIT: usize = i32::MAX as usize - 1024;
/// Heads of a group, so that rows of a tile can be divided by it in one multiplication.
const GROUP_LIMIT: usize = 65_000;

/// A problem's tiles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    pub(crate) queries: Vec<Tile>,
    pub(crate) keys: Vec<Tile>,
    /// Query tiles that several key tiles add to, for one K/V head.
    pub(crate) turns: usize,
}

impl Schedule {
    pub(crate) fn new(problem: &Problem<'_>, shape: &Shape) -> Result<Self, CudaError> {
        check_limits(problem)?;
        let attention = problem.attention();
        let group = attention.group();
        let mut queries = Vec::new();
        let mut keys = Vec::new();
        let mut turns = 0;
        let mut row = 0;
        for segment in problem.batch().segments() {
            list_blind(row..segment.q_begin, group, shape.forward_rows, &mut queries);
            row = segment.q_begin + segment.q_len;
            list_queries(&segment, attention, shape.forward_rows, &mut queries);
            turns += list_keys(&segment, attention, shape, turns, &mut keys);
        }
        list_blind(row..problem.batch().q_rows(), group, shape.forward_rows, &mut queries);
        let heads = attention.kv_heads();
        check("tiles times kv_heads", queries.len().max(keys.len()).saturating_mul(heads))?;
        check("turns times kv_heads", turns.saturating_mul(heads))?;
        Ok(Self { queries: longest_first(queries), keys: longest_first(keys), turns })
    }
}

fn check_limits(problem: &Problem<'_>) -> Result<(), CudaError> {
    let shape = problem.shape();
    let group = problem.attention().group();
    if group > GROUP_LIMIT {
        return Err(CudaError::TooLarge { what: "heads per K/V head", given: group, limit: GROUP_LIMIT });
    }
    check("rows of q", shape.q_rows)?;
    check("rows of k", shape.k_rows)?;
    for segment in problem.batch().segments() {
        let longest = segment.q_len.max(segment.k_len);
        check("rows of a document times heads per K/V head", longest.saturating_mul(group))?;
    }
    Ok(())
}

fn check(what: &'static str, given: usize) -> Result<(), CudaError> {
    if given > LIMIT {
        return Err(CudaError::TooLarge { what, given, limit: LIMIT });
    }
    Ok(())
}

/// A tile and how long it takes, roughly.
type Weighed<T = Tile> = (u64, T);

fn longest_first<T>(mut tiles: Vec<Weighed<T>>) -> Vec<T> {
    tiles.sort_by_key(|(weight, _)| Reverse(*weight));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// A document's tile without its beginning. The numbers fit: `check_limits` came before.
fn tile_of(segment: &Segment) -> Tile {
    Tile {
        query_row: segment.q_begin as i32,
        queries: segment.q_len as i32,
        key_row: segment.k_begin as i32,
        keys: segment.k_len as i32,
        begin: 0,
        first_turn: 0,
    }
}

/// Rows of no document, as documents without keys: such rows get something too. They come in pieces, so
/// that a long run of padding does not break the limit of a document.
fn blind(rows: Range<usize>, group: usize) -> impl Iterator<Item = Segment> {
    let step = (LIMIT / group / 2).min(1 << 20);
    let end = rows.end;
    rows.step_by(step).map(move |begin| Segment {
        q_begin: begin,
        q_len: (end - begin).min(step),
        k_begin: 0,
        k_len: 0,
    })
}

fn list_blind(rows: Range<usize>, group: usize, tile_rows: usize, tiles: &mut Vec<Weighed>) {
    for segment in blind(rows, group) {
        for row in (0..segment.q_len * group).step_by(tile_rows) {
            tiles.push((0, Tile { begin: row as i32, ..tile_of(&segment) }));
        }
    }
}

/// Lists a document's tiles of `tile_rows` query rows.
fn list_queries(segment: &Segment, attention: &Attention, tile_rows: usize, tiles: &mut Vec<Weighed>) {
    let group = attention.group();
    let rows = segment.q_len * group;
    for begin in (0..rows).step_by(tile_rows) {
        let last = (begin + tile_rows).min(rows) - 1;
        let seen = seen_by(segment, attention, begin / group, last / group);
        tiles.push((seen.len() as u64, Tile { begin: begin as i32, ..tile_of(segment) }));
    }
}

/// The keys that at least one of the queries `first` to `last` sees.
fn seen_by(segment: &Segment, attention: &Attention, first: usize, last: usize) -> Range<usize> {
    let keys = |i| visible(segment, attention, i);
    keys(first).start..keys(last).end
}

/// Keys that a query may see, itself included; the kernels count so far only.
fn window(attention: &Attention) -> i64 {
    attention.mask().window.map_or(i64::from(i32::MAX), |w| w.get().min(i32::MAX as usize) as i64)
}

/// The kernels' `Document::visible`: unlike a mask's own range, an empty one keeps its place.
fn visible(segment: &Segment, attention: &Attention, query: usize) -> Range<usize> {
    let position = (query + segment.k_len) as i64 - segment.q_len as i64;
    let begin = (position.max(0) - window(attention) + 1).max(0);
    let end = if attention.mask().causal {
        (position + 1).clamp(0, segment.k_len as i64)
    } else {
        segment.k_len as i64
    };
    begin as usize..end as usize
}

/// Lists the tiles of a document's keys in ascending order and returns how many turns they take.
/// Sorting keeps their order: a block may wait only for blocks that begin before it.
fn list_keys(
    segment: &Segment,
    attention: &Attention,
    shape: &Shape,
    first_turn: usize,
    tiles: &mut Vec<Weighed>,
) -> usize {
    let seen = seen_by(segment, attention, 0, segment.q_len - 1);
    if seen.is_empty() {
        return 0;
    }
    let (rows, group) = (shape.rows as i64, attention.group() as i64);
    let shift = (segment.k_len as i64 - segment.q_len as i64) * group;
    let first = shift.div_euclid(rows);
    let last = (shift + segment.q_len as i64 * group - 1).div_euclid(rows);
    let begin = tiles.len();
    for key in (seen.start / shape.keys * shape.keys..seen.end).step_by(shape.keys) {
        let key_first = key as i64 * group / rows;
        let begin = if attention.mask().causal { first.max(key_first) } else { first };
        let window_last =
            ((key as i64 + shape.keys as i64 - 1 + window(attention)) * group - 1).div_euclid(rows);
        let weight = last.min(window_last) - begin + 1;
        let tile = Tile { begin: key as i32, first_turn: first_turn as i32, ..tile_of(segment) };
        tiles.push((weight.max(0) as u64, tile));
    }
    let mine = &mut tiles[begin..];
    keep_in_order(mine);
    if mine.len() > 1 { (last - first + 1) as usize } else { 0 }
}

/// Lets every tile weigh at least as much as those behind it, so that sorting by weight leaves them
/// behind it.
fn keep_in_order<T>(tiles: &mut [Weighed<T>]) {
    let mut heaviest = 0;
    for (weight, _) in tiles.iter_mut().rev() {
        heaviest = heaviest.max(*weight);
        *weight = heaviest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroUsize;
    use microseq_core::{DType, Varlen};
    use std::collections::BTreeSet;

    /// Documents with more keys than queries, fewer, none, and rows of no document between them.
    const Q: [i32; 6] = [3, 303, 303, 1003, 1010, 1500];
    const K: [i32; 6] = [5, 405, 500, 600, 600, 1400];

    pub(super) fn problems() -> Vec<Problem<'static>> {
        let varlen = Varlen::new(&Q, &K, 1600, 1400).expect("legal");
        let mut problems = Vec::new();
        for (group, kv_heads) in [(1, 2), (3, 2), (4, 2), (16, 2), (4, 8), (16, 8)] {
            for window in [None, NonZeroUsize::new(1), NonZeroUsize::new(200)] {
                for causal in [true, false] {
                    let mut attention = Attention::new(kv_heads * group, kv_heads, 128).expect("heads");
                    if let Some(window) = window {
                        attention = attention.with_window(window.get()).expect("window");
                    }
                    if !causal {
                        attention = attention.non_causal();
                    }
                    problems.push(Problem::new(attention, varlen, DType::Bf16).expect("legal"));
                }
            }
        }
        problems
    }

    fn schedule(problem: &Problem<'_>) -> (Shape, Schedule) {
        let shape = Shape::choose(DType::Bf16, 128, 163 * 1024);
        (shape, Schedule::new(problem, &shape).expect("small"))
    }

    #[test]
    fn every_query_row_is_in_one_tile() {
        for problem in problems() {
            let (shape, schedule) = schedule(&problem);
            let group = problem.attention().group();
            let mut seen = vec![0; 1600 * group];
            for tile in &schedule.queries {
                let rows = tile.queries as usize * group;
                let begin = tile.begin as usize;
                for row in begin..(begin + shape.forward_rows).min(rows) {
                    seen[tile.query_row as usize * group + row] += 1;
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{:?}", problem.attention());
        }
    }

    #[test]
    fn every_visible_key_is_in_one_tile_and_others_in_none() {
        for problem in problems() {
            let (shape, schedule) = schedule(&problem);
            let mask = problem.attention().mask();
            let mut expected = BTreeSet::new();
            for s in problem.batch().segments() {
                for i in 0..s.q_len {
                    expected.extend(mask.keys(i, s.q_len, s.k_len).map(|j| (s.k_begin, j / shape.keys)));
                }
            }
            let listed: Vec<_> = schedule
                .keys
                .iter()
                .map(|tile| (tile.key_row as usize, tile.begin as usize / shape.keys))
                .collect();
            assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), expected, "{mask:?}");
            assert_eq!(listed.len(), expected.len(), "{mask:?}");
        }
    }

    /// What keeps waiting from lasting for ever.
    #[test]
    fn key_tiles_of_a_document_ascend() {
        for problem in problems() {
            let (_, schedule) = schedule(&problem);
            for (i, tile) in schedule.keys.iter().enumerate() {
                let earlier = schedule.keys[..i].iter().filter(|other| other.key_row == tile.key_row);
                assert!(earlier.clone().all(|other| other.begin < tile.begin), "{:?}", problem.attention());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_numbers() {
        let ends = [0, i32::MAX - 2048];
        let varlen = Varlen::new(&ends, &ends, ends[1] as usize, ends[1] as usize).expect("legal");
        let attention = Attention::new(4, 1, 128).expect("heads");
        let problem = Problem::new(attention, varlen, DType::Bf16).expect("legal");
        let shape = Shape::choose(DType::Bf16, 128, 163 * 1024);
        match Schedule::new(&problem, &shape) {
            Err(CudaError::TooLarge { given, limit, .. }) => assert!(given > limit),
            other => panic!("{other:?}"),
        }
    }
}
