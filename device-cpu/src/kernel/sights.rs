//! Which keys of a tile some consecutive rows see.

use super::rows::DocumentRows;
use super::{GRAIN, ROWS};
use core::ops::Range;

/// The keys of a tile, counted from its begin, that each of up to [`ROWS`] rows sees: `begin..end`,
/// both rising with the row.
pub(crate) struct Sights {
    rows: usize,
    /// The first of the rows that sees no key of an earlier tile.
    fresh: usize,
    begin: [u32; ROOM],
    end: [u32; ROOM],
    /// Whether a row sees keys of this tile only, and all in one grain.
    inside: [bool; ROOM],
}

/// A token's rows are written so many at a time, whatever their number: the next token's follow, or room.
const STEP: usize = 8;
const ROOM: usize = ROWS + STEP;

/// Writes `value` for some rows; what is behind them, up to [`STEP`], is overwritten.
#[inline(always)]
fn fill<T: Copy>(to: &mut [T; ROOM], rows: Range<usize>, value: T) {
    for row in rows.step_by(STEP) {
        to[row..row + STEP].copy_from_slice(&[value; STEP]);
    }
}

/// Whether keys lie in one grain of their document: whatever the blocks of keys are, in one tile.
#[inline(always)]
pub(crate) fn in_one_grain(keys: &Range<usize>) -> bool {
    keys.start / GRAIN == (keys.end - 1) / GRAIN
}

/// Neighbouring rows that products take together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// The first of them, and how many.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// The keys that some of them see.
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// Whether none of them sees a key of an earlier tile.
    pub(crate) fresh: bool,
}

impl Group {
    /// The keys that some of the rows see, rounded to multiples of `step`; none where none are seen.
    #[inline(always)]
    pub(crate) fn reach(&self, step: usize) -> Range<usize> {
        if self.begin == self.end {
            return 0..0;
        }
        self.begin / step * step..self.end.next_multiple_of(step)
    }
}

impl Sights {
    /// Some rows of a document, and its tile of keys `tile`.
    #[inline(always)]
    pub(crate) fn new(document: &DocumentRows, rows: Range<usize>, tile: Range<usize>) -> Self {
        debug_assert!(rows.len() <= ROWS);
        let mut sights =
            Self { rows: rows.len(), fresh: 0, begin: [0; ROOM], end: [0; ROOM], inside: [false; ROOM] };
        for run in document.runs(rows) {
            let within = |key: usize| key.saturating_sub(tile.start).min(tile.len()) as u32;
            let behind = run.at + run.rows;
            fill(&mut sights.begin, run.at..behind, within(run.keys.start));
            fill(&mut sights.end, run.at..behind, within(run.keys.end));
            let inside = tile.start <= run.keys.start && run.keys.end <= tile.end && in_one_grain(&run.keys);
            fill(&mut sights.inside, run.at..behind, inside);
            if run.keys.start < tile.start {
                sights.fresh = behind;
            }
        }
        sights
    }

    /// How many rows there are.
    #[inline(always)]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether a row sees keys of this tile only, and all in one grain.
    #[inline(always)]
    pub(crate) fn is_inside(&self, row: usize) -> bool {
        self.inside[row]
    }

    /// The keys that a row sees.
    #[inline(always)]
    pub(crate) fn keys(&self, row: usize) -> Range<usize> {
        self.begin[row] as usize..self.end[row] as usize
    }

    /// The keys from the first to the last that some row sees.
    #[inline(always)]
    pub(crate) fn all(&self) -> Range<usize> {
        self.begin[0] as usize..self.end[self.rows - 1] as usize
    }

    /// The rows in groups of `size`.
    #[inline(always)]
    pub(crate) fn groups(&self, size: usize) -> impl Iterator<Item = Group> {
        (0..self.rows).step_by(size).map(move |first| self.group(first, size))
    }

    /// The group of up to `size` rows from `first` on.
    #[inline(always)]
    pub(crate) fn group(&self, first: usize, size: usize) -> Group {
        let rows = size.min(self.rows - first);
        let (begin, end) = (self.begin[first] as usize, self.end[first + rows - 1] as usize);
        Group { first, rows, begin, end: end.max(begin), fresh: first >= self.fresh }
    }

    /// The keys in groups of `size`, each with the rows that see one of it, but for those that no row
    /// sees.
    #[inline(always)]
    pub(crate) fn seen(&self, size: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let last = self.end[self.rows - 1] as usize;
        let (mut first, mut behind) = (0, 0);
        let groups = (self.begin[0] as usize / size * size..last).step_by(size);
        groups.filter_map(move |key| {
            // Both rise with the row.
            while self.end[first] as usize <= key {
                first += 1;
            }
            while behind < self.rows && (self.begin[behind] as usize) < key + size {
                behind += 1;
            }
            (first < behind).then_some((key, first..behind))
        })
    }
}
