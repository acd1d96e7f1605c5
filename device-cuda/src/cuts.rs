//! Where the backward pass cuts walks into parts, so that different blocks can work on a walk at the same time: each sums
//! up dk and dv of its own, from zero, and adds them to the store (`schedule/parts.rs`). The bits of dk and dv depend on
//! these places, so the operator alone decides.

use core::ops::Range;
use microseq_core::Attention;

/// Parts of the same length, up to where the next run begins.
struct Run {
    /// Query rows of the document before it.
    begin: i64,
    /// How many parts are in these rows.
    number: i64,
    /// Query rows of a part.
    length: i64,
}

impl Run {
    /// The run behind it, which begins with so many rows before it.
    const fn then(&self, begin: i64, length: i64) -> Self {
        Self { begin, number: self.number + (begin - self.begin) / self.length, length }
    }
}

/// The fewer heads, the shorter are parts, since what one takes to begin and end is a few tiles' time. Those near the
/// document's begin are shorter than others: blocks come to them last, and short documents have no others. Powers of two,
/// as steps mostly are.
const TWO_HEADS: &[Run] = &[FIRST, FIRST.then(6144, 2048)];
const MORE_HEADS: &[Run] = &[FIRST, FIRST.then(2048, 2048), FIRST.then(2048, 2048).then(8192, 4096)];
const FIRST: Run = Run { begin: 0, number: 0, length: 1024 };

/// With so many K/V heads there are walks enough for all blocks.
const MANY_HEADS: usize = 8;

/// Whether there are fewer walks than blocks, or the longest take longer than everything else.
pub(crate) fn has_few_walks(attention: &Attention) -> bool {
    attention.kv_heads() < MANY_HEADS
}

/// Where walks are cut, in query tiles from the document's begin.
#[derive(Clone, Copy)]
pub(crate) struct Cuts {
    runs: &'static [Run],
    tile_rows: i64,
}

impl Cuts {
    /// Of walks over tiles of so many query rows.
    pub(crate) fn new(attention: &Attention, tile_rows: usize) -> Self {
        let runs = if attention.kv_heads() <= 2 { TWO_HEADS } else { MORE_HEADS };
        Self { runs, tile_rows: tile_rows as i64 }
    }

    /// Tiles of the longest parts: walks are cut at all multiples of so many.
    pub(crate) fn grain(&self) -> usize {
        (self.runs[self.runs.len() - 1].length / self.tile_rows) as usize
    }

    /// Which part a tile is in. There are some before position 0 where a document has fewer keys than queries.
    pub(crate) fn number(&self, tile: i32) -> i32 {
        let row = i64::from(tile) * self.tile_rows;
        let run = self.last_run(|run| run.begin <= row);
        (run.number + (row - run.begin).div_euclid(run.length)) as i32
    }

    /// The tiles of a part.
    pub(crate) fn tiles(&self, number: i32) -> Range<i32> {
        let run = self.last_run(|run| run.number <= i64::from(number));
        let begin = run.begin + (i64::from(number) - run.number) * run.length;
        let tile = |row| (row / self.tile_rows) as i32;
        tile(begin)..tile(begin + run.length)
    }

    fn last_run(&self, reached: impl Fn(&Run) -> bool) -> &Run {
        self.runs.iter().rfind(|run| reached(run)).unwrap_or(&self.runs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(kv_heads: usize, tile_rows: usize) -> Cuts {
        Cuts::new(&Attention::new(kv_heads, kv_heads, 128).expect("heads"), tile_rows)
    }

    #[test]
    fn parts_are_shorter_near_the_begin() {
        let rows = |kv_heads, numbers: Range<i32>| -> Vec<i32> {
            numbers.map(|number| cuts(kv_heads, 1).tiles(number).start).collect()
        };
        assert_eq!(rows(1, 0..9), [0, 1024, 2048, 3072, 4096, 5120, 6144, 8192, 10240]);
        assert_eq!(rows(2, 5..8), [5120, 6144, 8192]);
        assert_eq!(rows(3, 0..8), [0, 1024, 2048, 4096, 6144, 8192, 12288, 16384]);
        assert_eq!(rows(7, -2..2), [-2048, -1024, 0, 1024]);
    }

    #[test]
    fn every_tile_is_in_the_part_that_has_it() {
        for cuts in [1, 2, 3, 7].into_iter().flat_map(|heads| [32, 64, 128].map(|rows| cuts(heads, rows))) {
            let mut end = cuts.tiles(-3).start;
            for number in -3..30 {
                let tiles = cuts.tiles(number);
                assert_eq!(tiles.start, end);
                end = tiles.end;
                assert!(tiles.clone().all(|tile| cuts.number(tile) == number), "{tiles:?}");
            }
            for cut in 0..20 {
                let tile = cut * cuts.grain() as i32;
                assert_eq!(cuts.tiles(cuts.number(tile)).start, tile);
            }
            assert!(cuts.tiles(cuts.number(i32::MAX - 1024)).contains(&(i32::MAX - 1024)));
        }
    }
}
