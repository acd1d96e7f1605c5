//! Who works on what, in which order: exact lists of tiles, made once for all layers: of queries, longest first, and
//! of keys, in an order in which blocks wait little for each other (`order.rs`).
//! Twin of `kernels/schedule.cuh`, which has the words: query rows, positions, turns.
//!
//! This file has what all kernels share and the lists of most; those for compute capability 9.0 are cut
//! differently (`wgmma.rs`).

mod order;
mod parts;
#[cfg(test)]
mod scripts;
mod shares;
pub(crate) mod wgmma;

use parts::{Part, parts_in_order};

use crate::CudaError;
use crate::args::{Tile, Walk};
use crate::cuts::Cuts;
use crate::shape::{Shape, Variant};
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
    pub(crate) keys: Vec<Walk>,
    /// Query tiles that several key tiles add to, for one K/V head.
    pub(crate) turns: usize,
    /// Counters of these and of walks that are cut.
    pub(crate) counters: usize,
}

impl Schedule {
    /// The lists for a device that runs so many blocks at a time, with walks cut into parts or whole.
    pub(crate) fn new(
        problem: &Problem<'_>,
        shape: &Shape,
        cuts: Option<Cuts>,
        blocks: usize,
    ) -> Result<Self, CudaError> {
        check_limits(problem)?;
        let attention = problem.attention();
        let group = attention.group();
        let mut queries = Vec::new();
        let mut walks = Vec::new();
        let mut turns = 0;
        let mut row = 0;
        for segment in problem.batch().segments() {
            list_blind(row..segment.q_begin, group, shape.forward_rows, &mut queries);
            row = segment.q_begin + segment.q_len;
            list_queries(&segment, attention, shape.forward_rows, &mut queries);
            let (of_segment, tiles) = walks_of(&segment, attention, shape, turns);
            turns += if of_segment.len() > 1 { tiles } else { 0 };
            walks.push(of_segment);
        }
        list_blind(row..problem.batch().q_rows(), group, shape.forward_rows, &mut queries);
        let heads = attention.kv_heads();
        let walk_count = walks.iter().map(Vec::len).sum::<usize>();
        let counters = turns + if cuts.is_some() { walk_count } else { 0 };
        check("tiles times kv_heads", queries.len().max(walk_count).saturating_mul(heads))?;
        check("turns times kv_heads", counters.saturating_mul(heads))?;
        if cuts.is_some() {
            let numbered = walks.iter_mut().flatten().zip(turns as i32..);
            numbered.for_each(|(walk, number)| walk.number = number);
        }
        let tiles = |walk: &Walk| walk.begin..walk.end;
        let keys = match shape.variant {
            Variant::Mma { head_dim, .. } => {
                let parts = parts_in_order(&walks, tiles, cuts, heads, shape.rows * head_dim, blocks)?;
                let walks = walks.concat();
                let piece =
                    |Part { walk, begin, end, before, .. }| Walk { begin, end, before, ..walks[walk] };
                parts.into_iter().map(piece).collect()
            }
            // Blocks do not wait for each other.
            Variant::Fma { .. } => {
                let walks = walks.into_iter().flatten();
                longest_first(walks.map(|walk| (tiles(&walk).len() as u64, walk)).collect())
            }
        };
        Ok(Self { queries: longest_first(queries), keys, turns, counters })
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

/// The tiles of a document's keys in ascending order with the query tiles that see some of them, and how many query tiles
/// the document has.
fn walks_of(
    segment: &Segment,
    attention: &Attention,
    shape: &Shape,
    first_turn: usize,
) -> (Vec<Walk>, usize) {
    let seen = seen_by(segment, attention, 0, segment.q_len - 1);
    if seen.is_empty() {
        return (Vec::new(), 0);
    }
    let (rows, group) = (shape.rows as i64, attention.group() as i64);
    let shift = (segment.k_len as i64 - segment.q_len as i64) * group;
    let first = shift.div_euclid(rows);
    let end = (shift + segment.q_len as i64 * group - 1).div_euclid(rows) + 1;
    let walk = |key: usize| {
        // From the first key on (causal), up to the window behind the last.
        let (key_begin, key_end) = (key as i64, (key + shape.keys) as i64);
        let begin = if attention.mask().causal { first.max(key_begin * group / rows) } else { first };
        let last = ((key_end - 1 + window(attention)) * group - 1).div_euclid(rows);
        Walk {
            tile: Tile { begin: key as i32, first_turn: first_turn as i32, ..tile_of(segment) },
            begin: begin as i32,
            end: end.min(last + 1) as i32,
            number: -1,
            before: 0,
        }
    };
    let walks = (seen.start / shape.keys * shape.keys..seen.end).step_by(shape.keys).map(walk).collect();
    (walks, (end - first) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::LITTLE_SHARED;
    use core::num::NonZeroUsize;
    use microseq_core::{DType, Varlen};
    use std::collections::{BTreeMap, BTreeSet};

    /// Documents with more keys than queries, fewer, none, and rows of no document between them.
    const Q: [i32; 6] = [3, 303, 303, 1003, 1010, 1500];
    const K: [i32; 6] = [5, 405, 500, 600, 600, 1400];

    pub(super) fn problems() -> Vec<Problem<'static>> {
        let varlen = Varlen::new(&Q, &K, 1600, 1400).expect("legal");
        let mut problems = Vec::new();
        for (group, kv_heads) in [(1, 2), (3, 2), (4, 2), (16, 2), (16, 3), (4, 8), (16, 8)] {
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

    /// Every problem with its lists for each shape of tiles, and the ordinary units'.
    fn each_schedule(mut visit: impl FnMut(&Problem<'_>, Shape, Schedule)) {
        for problem in problems() {
            for (head_dim, shared_limit) in [64, 128, 256, 512].into_iter().zip([163 << 10; 4]).chain([
                (64, LITTLE_SHARED),
                (128, LITTLE_SHARED),
                (256, LITTLE_SHARED),
            ]) {
                let shape = Shape::choose(DType::Bf16, head_dim, shared_limit);
                let cuts = shape.cuts(problem.attention());
                visit(&problem, shape, Schedule::new(&problem, &shape, cuts, 132).expect("small"));
            }
        }
    }

    #[test]
    fn every_query_row_is_in_one_tile() {
        each_schedule(|problem, shape, schedule| {
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
        });
    }

    /// The walks over a key tile of a document, by its first row and its number.
    fn by_key_tile(shape: &Shape, schedule: &Schedule) -> BTreeMap<(usize, usize), Vec<Walk>> {
        let mut walks: BTreeMap<_, Vec<Walk>> = BTreeMap::new();
        for walk in &schedule.keys {
            let place = (walk.tile.key_row as usize, walk.tile.begin as usize / shape.keys);
            walks.entry(place).or_default().push(*walk);
        }
        walks
    }

    #[test]
    fn every_visible_key_is_in_one_tile_and_others_in_none() {
        each_schedule(|problem, shape, schedule| {
            let mask = problem.attention().mask();
            let mut expected = BTreeSet::new();
            for s in problem.batch().segments() {
                for i in 0..s.q_len {
                    let seen = mask.keys(i, s.q_len, s.k_len);
                    let tiles = seen.start / shape.keys..seen.end.div_ceil(shape.keys);
                    expected.extend(tiles.map(|tile| (s.k_begin, tile)));
                }
            }
            let listed = by_key_tile(&shape, &schedule);
            assert_eq!(listed.keys().copied().collect::<BTreeSet<_>>(), expected, "{mask:?}");
        });
    }

    /// Every query tile that sees some of a key tile is met by one of its walk's parts.
    #[test]
    fn queries_are_met_once() {
        each_schedule(|problem, shape, schedule| {
            let (mask, group) = (problem.attention().mask(), problem.attention().group());
            let walks = by_key_tile(&shape, &schedule);
            for s in problem.batch().segments() {
                for i in 0..s.q_len {
                    let row = (i + s.k_len) as i64 - s.q_len as i64;
                    let t = (row * group as i64).div_euclid(shape.rows as i64) as i32;
                    let seen = mask.keys(i, s.q_len, s.k_len);
                    for key_tile in seen.start / shape.keys..seen.end.div_ceil(shape.keys) {
                        let meets = |walk: &&Walk| (walk.begin..walk.end).contains(&t);
                        assert_eq!(
                            walks[&(s.k_begin, key_tile)].iter().filter(meets).count(),
                            1,
                            "{mask:?} {i}"
                        );
                    }
                }
            }
        });
    }

    /// Parts are cut at the same places, have their walk's counter, and say how many come before; whole walks have none.
    #[test]
    fn parts_know_their_walk() {
        let mut kinds = BTreeSet::new();
        each_schedule(|problem, shape, schedule| {
            let cuts = shape.cuts(problem.attention());
            let mut numbers = BTreeSet::new();
            for walks in by_key_tile(&shape, &schedule).values_mut() {
                walks.sort_by_key(|walk| Reverse(walk.begin));
                let befores = walks.iter().map(|walk| walk.before);
                assert!(befores.eq(0..walks.len() as i32));
                assert!(walks.windows(2).all(|pair| pair[0].begin == pair[1].end));
                assert!(walks.iter().all(|walk| walk.number == walks[0].number));
                kinds.insert((cuts.is_some(), walks.len().min(2)));
                let Some(cuts) = cuts else {
                    assert_eq!((walks.len(), walks[0].number), (1, -1));
                    continue;
                };
                assert!(numbers.insert(walks[0].number as usize));
                assert!(walks.iter().all(|walk| cuts.number(walk.begin) == cuts.number(walk.end - 1)));
            }
            let counters = schedule.turns..schedule.counters;
            assert_eq!(numbers, counters.collect());
        });
        assert!(kinds.contains(&(false, 1)) && kinds.contains(&(true, 2)), "{kinds:?}");
    }

    /// What keeps waiting from lasting for ever: a piece waits for earlier keys that meet the same queries, and for the
    /// parts of its own walk before.
    #[test]
    fn what_a_walk_waits_for_comes_before_it() {
        each_schedule(|problem, shape, schedule| {
            if matches!(shape.variant, Variant::Fma { .. }) {
                return; // nobody waits
            }
            for (i, walk) in schedule.keys.iter().enumerate() {
                let waits = |other: &&Walk| {
                    let (own, others) = (walk.tile, other.tile);
                    own.key_row == others.key_row
                        && if own.begin == others.begin {
                            other.before < walk.before
                        } else {
                            others.begin < own.begin && other.begin < walk.end && walk.begin < other.end
                        }
                };
                let behind = &schedule.keys[i + 1..];
                assert!(!behind.iter().any(|other| waits(&other)), "{:?}", problem.attention());
            }
        });
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_numbers() {
        let ends = [0, i32::MAX - 2048];
        let varlen = Varlen::new(&ends, &ends, ends[1] as usize, ends[1] as usize).expect("legal");
        let attention = Attention::new(4, 1, 128).expect("heads");
        let problem = Problem::new(attention, varlen, DType::Bf16).expect("legal");
        let shape = Shape::choose(DType::Bf16, 128, 163 * 1024);
        match Schedule::new(&problem, &shape, None, 132) {
            Err(CudaError::TooLarge { given, limit, .. }) => assert!(given > limit),
            other => panic!("{other:?}"),
        }
    }
}
