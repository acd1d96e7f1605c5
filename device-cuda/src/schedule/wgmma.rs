//! The lists of the kernels for compute capability 9.0, whose query tiles are whole tokens with all heads
//! of a K/V group. Twin of `kernels/piece.cuh`.

use super::parts::{Part, parts_in_order};
use super::shares::share_out;
use super::{blind, check, check_limits, list_queries, tile_of, visible, window};
use crate::CudaError;
use crate::args::{DkvSums, KeyTile, Tile};
use crate::shape::{WgmmaBackward, WgmmaForward};
use core::cmp::Reverse;
use core::ops::Range;
use microseq_core::{Attention, Problem, Segment};

/// The query tiles of the forward pass, longest first, and who works on them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forward {
    pub(crate) tiles: Vec<Tile>,
    /// Blocks to launch: as many as there is work for.
    pub(crate) blocks: usize,
    /// What [`share_out`] returns.
    pub(crate) shares: Vec<i32>,
}

impl Forward {
    /// The lists for a device that runs so many blocks at a time.
    pub(crate) fn new(problem: &Problem<'_>, shape: &WgmmaForward, blocks: usize) -> Result<Self, CudaError> {
        check_limits(problem)?;
        let (attention, heads) = (problem.attention(), problem.attention().kv_heads());
        let rows = shape.rows / attention.group() * attention.group();
        let mut tiles = Vec::new();
        each_segment(problem, |segment| list_queries(segment, attention, rows, &mut tiles));
        check("tiles times kv_heads", tiles.len().saturating_mul(heads))?;
        tiles.sort_by_key(|(keys, _)| Reverse(*keys));
        // To begin and to end a tile takes about as long as two thirds of a tile of keys.
        let cost = |keys: u64| 3 * keys.div_ceil(shape.keys as u64) + 2;
        let costs: Vec<u64> = tiles.iter().map(|(keys, _)| cost(*keys)).collect();
        let blocks = blocks.min(tiles.len() * heads);
        let tiles = tiles.into_iter().map(|(_, tile)| tile).collect();
        Ok(Self { tiles, blocks, shares: share_out(&costs, heads, blocks) })
    }
}

/// The tiles of the backward pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backward {
    pub(crate) keys: Vec<KeyTile>,
    /// Counters besides the ticket: of query tiles, then of walks; for each K/V head.
    pub(crate) counters: usize,
    /// The query tiles: `begin` counts tiles from position 0, `first_turn` is the tile's number.
    pub(crate) stats: Vec<Tile>,
}

impl Backward {
    /// The lists for a device that runs so many blocks at a time.
    pub(crate) fn new(
        problem: &Problem<'_>,
        shape: &WgmmaBackward,
        blocks: usize,
    ) -> Result<Self, CudaError> {
        check_limits(problem)?;
        let heads = problem.attention().kv_heads();
        let mut lists = Lists::new(problem, shape);
        each_segment(problem, |segment| lists.add(segment));
        let Lists { mut walks, walk_count, stats, .. } = lists;
        let counters = stats.len() + walk_count;
        // A ticket counter is before those.
        check("tiles times kv_heads", counters.saturating_mul(heads).saturating_add(1))?;
        walks.iter_mut().flatten().for_each(|walk| walk.walk += stats.len() as i32);
        let cuts = shape.cuts(problem.attention());
        let tiles = |walk: &KeyTile| walk.begin..walk.end;
        let parts = parts_in_order(&walks, tiles, cuts, heads, shape.rows * shape.head_dim, blocks)?;
        let walks = walks.concat();
        let piece = |of: &Part| if cuts.is_some() { part_of(&walks[of.walk], of) } else { walks[of.walk] };
        Ok(Self { keys: parts.iter().map(piece).collect(), counters, stats })
    }
}

/// The part of a walk, which may be all of it, where walks are cut.
fn part_of(walk: &KeyTile, part: &Part) -> KeyTile {
    let Part { begin, end, before, after, .. } = *part;
    KeyTile {
        begin,
        end,
        seen_begin: walk.seen_begin.map(|tile| tile.clamp(begin, end)),
        sums: DkvSums::Added as i32,
        before,
        after,
        ..*walk
    }
}

/// Documents and, as documents without keys, the rows between them.
fn each_segment(problem: &Problem<'_>, mut visit: impl FnMut(&Segment)) {
    let group = problem.attention().group();
    let mut row = 0;
    for segment in problem.batch().segments() {
        blind(row..segment.q_begin, group).for_each(|segment| visit(&segment));
        row = segment.q().end;
        visit(&segment);
    }
    blind(row..problem.batch().q_rows(), group).for_each(|segment| visit(&segment));
}

/// The lists of the backward pass while they are made.
struct Lists<'a> {
    attention: &'a Attention,
    /// Queries of a tile.
    tokens: usize,
    /// Keys of a tile.
    keys: usize,
    /// Of the gradient store's view.
    zeroed_rows: usize,
    /// By document.
    walks: Vec<Vec<KeyTile>>,
    walk_count: usize,
    stats: Vec<Tile>,
}

impl<'a> Lists<'a> {
    fn new(problem: &'a Problem<'_>, shape: &WgmmaBackward) -> Self {
        let (attention, zeroed_rows) = (problem.attention(), problem.zeroed_rows());
        let tokens = shape.rows / attention.group();
        let (walks, stats) = (Vec::new(), Vec::new());
        Self { attention, tokens, keys: shape.keys, zeroed_rows, walks, walk_count: 0, stats }
    }

    /// Numbers may wrap: `Backward::new` refuses what has too many.
    fn add(&mut self, segment: &Segment) {
        let document = Document::new(segment, self.attention, self.tokens);
        let number = self.stats.len();
        for (tile, number) in document.tiles.clone().zip(number..) {
            let (begin, first_turn) = (tile as i32, number as i32);
            self.stats.push(Tile { begin, first_turn, ..tile_of(segment) });
        }
        let zeroed = segment.k().end <= self.zeroed_rows;
        let sums = if zeroed { DkvSums::FromZero } else { DkvSums::Continued } as i32;
        let first = document.visible(document.offset).start as usize / self.keys * self.keys;
        let walks: Vec<_> = (first..segment.k_len)
            .step_by(self.keys)
            .zip(self.walk_count as i32..)
            .map(|(key, walk)| KeyTile {
                walk,
                sums,
                ..document.key_tile(key as i64, self.keys as i64, number)
            })
            .collect();
        self.walk_count += walks.len();
        self.walks.push(walks);
    }
}

/// A document, its positions and the query tiles in terms of these.
struct Document<'a> {
    segment: &'a Segment,
    attention: &'a Attention,
    /// Position of the first query.
    offset: i64,
    keys: i64,
    tokens: i64,
    window: i64,
    causal: bool,
    tiles: Range<i64>,
}

impl<'a> Document<'a> {
    fn new(segment: &'a Segment, attention: &'a Attention, tokens: usize) -> Self {
        let (keys, tokens) = (segment.k_len as i64, tokens as i64);
        let offset = keys - segment.q_len as i64;
        let tiles = offset.div_euclid(tokens)..(keys - 1).div_euclid(tokens) + 1;
        let causal = attention.mask().causal;
        Self { segment, attention, offset, keys, tokens, window: window(attention), causal, tiles }
    }

    /// The keys that the query at a position sees.
    fn visible(&self, position: i64) -> Range<i64> {
        let keys = visible(self.segment, self.attention, (position - self.offset) as usize);
        keys.start as i64..keys.end as i64
    }

    /// The first query tile all of whose queries are at `position` or behind it.
    fn tile_from(&self, position: i64) -> i64 {
        if self.offset >= position {
            return self.tiles.start;
        }
        -(-position.min(self.keys)).div_euclid(self.tokens)
    }

    /// The query tiles that see some of the keys `begin..end`.
    fn seeing(&self, begin: i64, end: i64) -> Range<i64> {
        let first = if self.causal { begin.div_euclid(self.tokens) } else { self.tiles.start };
        let last = (end - 1 + self.window - 1).div_euclid(self.tokens);
        first.max(self.tiles.start)..(last + 1).min(self.tiles.end)
    }

    /// The query tiles that see all of them.
    fn seeing_all(&self, begin: i64, end: i64) -> Range<i64> {
        if end > self.keys {
            return 0..0;
        }
        let first = if self.causal { -(1 - end).div_euclid(self.tokens) } else { self.tiles.start };
        let behind = if begin + self.window > self.keys {
            self.tiles.end
        } else {
            self.tiles.end.min((begin + self.window).div_euclid(self.tokens))
        };
        first.max(self.tiles.start)..behind
    }

    /// Those to whose dq a tile of keys adds before all others.
    fn first_to_add(&self, begin: i64, end: i64) -> Range<i64> {
        let first = if begin == 0 { self.tiles.start } else { self.tile_from(begin + self.window - 1) };
        // A tile's first query sees the earliest keys.
        first..self.tile_from(end + self.window - 1)
    }

    /// Those before this one it adds to after all others.
    fn last_to_add_before(&self, end: i64) -> i64 {
        if end >= self.keys {
            i64::from(i32::MAX)
        } else if self.causal {
            end.div_euclid(self.tokens)
        } else {
            self.tiles.start
        }
    }

    /// The tile of `keys` keys that begins with `key`. The document's first query tile has the number
    /// `number`. Every number fits: the limits were checked.
    fn key_tile(&self, key: i64, keys: i64, number: usize) -> KeyTile {
        let end = key + keys;
        let seeing = self.seeing(key, end);
        let first = self.first_to_add(key, end);
        let halves = [key, key + keys / 2];
        let whole = halves.map(|half| self.seeing_all(half, half + keys / 2));
        let seen =
            halves.map(|half| if half < self.keys { self.seeing(half, end).start } else { seeing.end });
        KeyTile {
            key_row: (self.segment.k_begin as i64 + key) as i32,
            keys: (self.keys - key) as i32,
            key: key as i32,
            position_row: (self.segment.q_begin as i64 - self.offset) as i32,
            row_begin: self.segment.q_begin as i32,
            row_end: self.segment.q().end as i32,
            begin: seeing.start as i32,
            end: seeing.end as i32,
            first_begin: first.start as i32,
            first_end: first.end as i32,
            last_end: self.last_to_add_before(end) as i32,
            whole_begin: whole.clone().map(|tiles| tiles.start as i32),
            whole_end: whole.map(|tiles| tiles.end as i32),
            seen_begin: seen.map(|tile| tile as i32),
            number: (number as i64 - self.tiles.start) as i32,
            ..KeyTile::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::problems;
    use std::collections::BTreeMap;

    const FORWARD: WgmmaForward = WgmmaForward::compiled(128);
    /// Warpgroups own their keys, or share them.
    const SHAPES: [WgmmaBackward; 2] = [WgmmaBackward::compiled(128), WgmmaBackward::compiled(256)];

    /// Every problem with the lists for each shape, and how many tokens a query tile has.
    fn each_schedule(mut visit: impl FnMut(&Problem<'_>, &WgmmaBackward, Backward, i64)) {
        for problem in problems() {
            for (shape, blocks) in [(&SHAPES[0], 132), (&SHAPES[1], 132), (&SHAPES[0], 1)] {
                let schedule = Backward::new(&problem, shape, blocks).expect("small");
                visit(&problem, shape, schedule, (shape.rows / problem.attention().group()) as i64);
            }
        }
    }

    /// The positions of a tile's queries that the document has.
    fn positions(tile: &KeyTile, t: i64, tokens: i64) -> Range<i64> {
        let [first, end] = [tile.row_begin, tile.row_end].map(|row| i64::from(row - tile.position_row));
        (t * tokens).max(first)..((t + 1) * tokens).min(end)
    }

    /// The keys that a query at a position sees, counted as the kernel does.
    fn seen(problem: &Problem<'_>, tile: &KeyTile, position: i64) -> Range<i64> {
        let keys = i64::from(tile.key + tile.keys);
        let queries = i64::from(tile.row_end - tile.row_begin);
        let mask = problem.attention().mask();
        let seen = mask.keys((position - keys + queries) as usize, queries as usize, keys as usize);
        seen.start as i64..seen.end as i64
    }

    fn overlap(a: &Range<i64>, b: &Range<i64>) -> bool {
        a.start.max(b.start) < a.end.min(b.end)
    }

    #[test]
    fn every_row_is_in_one_query_tile_of_each_pass() {
        each_schedule(|problem, _, schedule, tokens| {
            let group = problem.attention().group();
            let forward_tiles = super::Forward::new(problem, &FORWARD, 132).expect("small").tiles;
            let mut forward = vec![0; problem.batch().q_rows()];
            let forward_tokens = (FORWARD.rows / group) as i32;
            for tile in forward_tiles {
                let begin = tile.begin / group as i32;
                for i in begin..(begin + forward_tokens).min(tile.queries) {
                    forward[(tile.query_row + i) as usize] += 1;
                }
            }
            assert!(forward.iter().all(|count| *count == 1));
            let mut backward = vec![0; problem.batch().q_rows()];
            for tile in &schedule.stats {
                let offset = i64::from(tile.keys - tile.queries);
                let first = i64::from(tile.begin) * tokens - offset;
                for i in first.max(0)..(first + tokens).min(tile.queries.into()) {
                    backward[(i64::from(tile.query_row) + i) as usize] += 1;
                }
            }
            assert!(backward.iter().all(|count| *count == 1));
            let numbers: Vec<_> = schedule.stats.iter().map(|tile| tile.first_turn as usize).collect();
            assert_eq!(numbers, (0..schedule.stats.len()).collect::<Vec<_>>());
        });
    }

    /// Of every query tile: which key tiles visit it, whether all that must do, and in which turn.
    #[test]
    fn key_tiles_visit_whom_they_must_in_turn() {
        each_schedule(|problem, shape, schedule, tokens| {
            let mut visits: BTreeMap<i64, Vec<(&KeyTile, i64)>> = BTreeMap::new();
            for tile in &schedule.keys {
                for t in i64::from(tile.begin)..i64::from(tile.end) {
                    visits.entry(i64::from(tile.number) + t).or_default().push((tile, t));
                }
            }
            for (number, visits) in &mut visits {
                visits.sort_by_key(|(tile, _)| tile.key);
                let stats = &schedule.stats[*number as usize];
                for (turn, (tile, t)) in visits.iter().enumerate() {
                    assert_eq!((tile.row_begin, i64::from(stats.begin)), (stats.query_row, *t));
                    let first = *t >= tile.first_begin.into() && *t < tile.first_end.into();
                    assert_eq!(first, turn == 0, "{tile:?} {t} {:?}", problem.attention());
                    assert_eq!(*t < tile.last_end.into(), turn + 1 == visits.len(), "{tile:?} {t}");
                    // Piece::turn.
                    let position = positions(tile, *t, tokens).start.max(0);
                    let earliest = (position - window(problem.attention()) + 1).max(0);
                    let before = tile.key as usize / shape.keys - earliest as usize / shape.keys;
                    assert_eq!(before, turn, "{tile:?} {t}");
                }
            }
            for stats in &schedule.stats {
                let visits = visits.get(&stats.first_turn.into()).map_or(&[][..], Vec::as_slice);
                let offset = i64::from(stats.keys - stats.queries);
                let range = (i64::from(stats.begin) * tokens).max(offset)
                    ..((i64::from(stats.begin) + 1) * tokens).min(stats.keys.into());
                let mask = problem.attention().mask();
                for position in range {
                    let i = (position - offset) as usize;
                    for key in mask.keys(i, stats.queries as usize, stats.keys as usize) {
                        let first = key / shape.keys * shape.keys;
                        assert!(visits.iter().any(|(tile, _)| tile.key as usize == first), "{stats:?} {key}");
                    }
                }
            }
        });
    }

    #[test]
    fn tiles_without_a_mask_need_none_and_others_have_one() {
        let mut whole = 0;
        each_schedule(|problem, shape, schedule, tokens| {
            for tile in &schedule.keys {
                for t in i64::from(tile.begin)..i64::from(tile.end) {
                    for half in 0..2 {
                        let half_keys = shape.keys as i64 / 2;
                        let first = i64::from(tile.key) + half_keys * half as i64;
                        let all = positions(tile, t, tokens).all(|position| {
                            let seen = seen(problem, tile, position);
                            seen.start <= first && first + half_keys <= seen.end
                        });
                        let said = t >= tile.whole_begin[half].into() && t < tile.whole_end[half].into();
                        assert!(all || !said, "{tile:?} {t} {half}");
                        let complete = positions(tile, t, tokens).count() as i64 == tokens;
                        assert!(said || !all || !complete, "{tile:?} {t} {half}");
                        whole += usize::from(said);
                    }
                }
            }
        });
        assert!(whole > 1000);
    }

    /// No query before the tile said to be the first sees any key of the half, and one of that tile does.
    #[test]
    fn halves_are_seen_from_where_it_is_said() {
        let mut unseen = 0;
        each_schedule(|problem, shape, schedule, tokens| {
            for tile in &schedule.keys {
                for half in 0..2 {
                    let first = i64::from(tile.key) + shape.keys as i64 / 2 * half as i64;
                    let keys = first..(first + shape.keys as i64 / 2).min((tile.key + tile.keys).into());
                    let seen_in = |t| {
                        let sees = |position| overlap(&seen(problem, tile, position), &keys);
                        positions(tile, t, tokens).any(sees)
                    };
                    let (begin, end) = (i64::from(tile.begin), i64::from(tile.end));
                    let said = i64::from(tile.seen_begin[half]);
                    assert!((begin..=end).contains(&said), "{tile:?} {half}");
                    assert!(!(begin..said).any(seen_in), "{tile:?} {half}");
                    assert!(said == begin || said == end || seen_in(said), "{tile:?} {half}");
                    unseen += said - begin;
                }
            }
        });
        assert!(unseen > 1000, "{unseen}");
    }

    /// The sums of a whole walk begin with zeros only where these are promised, and the document ends in the step;
    /// those of parts always do.
    #[test]
    fn zeros_are_where_nobody_added() {
        let plan = microseq_core::Plan::new(&[300, 1500, 900], 2000).expect("legal");
        let step = plan.steps().next().expect("two steps");
        let many = Attention::new(8, 8, 128).expect("heads");
        for (attention, cut) in [(many, false), (many.with_window(700).expect("legal"), true)] {
            let problem = Problem::new(attention, step, microseq_core::DType::Bf16).expect("legal");
            for problem in [problem.on_zeroed_store(), problem] {
                for tile in Backward::new(&problem, &SHAPES[0], 132).expect("small").keys {
                    let zeroed = problem.zeroed_rows() > 0 && tile.row_begin < 1800;
                    let sums = match (cut, zeroed) {
                        (true, _) => DkvSums::Added,
                        (false, true) => DkvSums::FromZero,
                        (false, false) => DkvSums::Continued,
                    };
                    assert_eq!(tile.sums, sums as i32, "{tile:?}");
                }
            }
        }
    }

    /// A tile meets few query tiles that see none of it.
    #[test]
    fn walks_are_exact_but_for_their_ends() {
        each_schedule(|problem, shape, schedule, tokens| {
            for tile in &schedule.keys {
                let keys = tile.key.into()..i64::from(tile.key) + shape.keys as i64;
                for t in i64::from(tile.begin) + 1..i64::from(tile.end) - 1 {
                    let sees = |position| overlap(&seen(problem, tile, position), &keys);
                    assert!(positions(tile, t, tokens).any(sees), "{tile:?} {t}");
                }
            }
        });
    }

    /// What keeps waiting from lasting for ever: a tile waits for earlier keys that meet the same queries, and
    /// for the part of its own walk before.
    #[test]
    fn what_a_tile_waits_for_comes_before_it() {
        each_schedule(|problem, _, schedule, _| {
            let keys = schedule.keys;
            for (i, tile) in keys.iter().enumerate() {
                let waits = |other: &&KeyTile| {
                    other.row_begin == tile.row_begin
                        && if other.key == tile.key {
                            other.before < tile.before
                        } else {
                            other.key < tile.key && other.begin < tile.end && tile.begin < other.end
                        }
                };
                assert!(!keys[i + 1..].iter().any(|other| waits(&other)), "{:?}", problem.attention());
            }
        });
    }

    /// Whole walks go on with what the store holds. Parts add to it in turn, the last query tiles first, and know how many
    /// they are.
    #[test]
    fn parts_come_to_the_store_one_after_the_other() {
        let mut seen = BTreeMap::new();
        each_schedule(|problem, shape, schedule, _| {
            let mut walks: BTreeMap<i32, Vec<&KeyTile>> = BTreeMap::new();
            for tile in &schedule.keys {
                walks.entry(tile.walk).or_default().push(tile);
            }
            let attention = problem.attention();
            let cuts = shape.cuts(attention);
            let (few, windowed) = (attention.kv_heads() < 8, attention.mask().window.is_some());
            let of_heads = if attention.kv_heads() == 2 { 32 } else { 64 };
            assert_eq!(cuts.map(|cuts| cuts.grain()), (few || windowed).then_some(of_heads));
            for (walk, mut parts) in walks {
                assert!((schedule.stats.len()..schedule.counters).contains(&(walk as usize)));
                parts.sort_by_key(|tile| Reverse(tile.begin));
                assert!(parts.windows(2).all(|pair| pair[0].begin == pair[1].end));
                let added = parts.iter().filter(|tile| tile.sums == DkvSums::Added as i32).count();
                assert_eq!(added, if cuts.is_some() { parts.len() } else { 0 });
                for (i, tile) in parts.iter().enumerate() {
                    assert_eq!((tile.before as usize, tile.after as usize), (i, parts.len() - 1 - i));
                    let number = |t: i32| cuts.map(|cuts| cuts.number(t));
                    assert_eq!(number(tile.begin), number(tile.end - 1), "{tile:?}");
                }
                *seen.entry((windowed, few, parts.len().min(2))).or_insert(0) += 1;
            }
        });
        for kind in [(false, true, 2), (true, true, 2), (true, false, 2), (false, false, 1)] {
            assert!(seen.contains_key(&kind), "{kind:?} {seen:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_numbers() {
        let ends = [0, i32::MAX - 2048];
        let varlen = microseq_core::Varlen::new(&ends, &ends, ends[1] as usize, ends[1] as usize);
        let attention = Attention::new(4, 1, 128).expect("heads");
        let problem = Problem::new(attention, varlen.expect("legal"), microseq_core::DType::Bf16);
        match Backward::new(&problem.expect("legal"), &SHAPES[0], 132) {
            Err(CudaError::TooLarge { given, limit, .. }) => assert!(given > limit),
            other => panic!("{other:?}"),
        }
    }
}
