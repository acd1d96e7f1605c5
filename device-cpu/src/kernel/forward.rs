//! The forward pass over one block of a document's rows: `out =`, `lse =`.
//!
//! For each tile of keys from the first that the block sees to the last, and each panel of the block:
//! products, running softmax, output. After a panel's last tile the output is divided and rounded.

use super::ahead::Ahead;
use super::fold;
use super::gemm::Before;
use super::opening;
use super::pack::{self, Keys, Source};
use super::products::{Products, Rows};
use super::rows::DocumentRows;
use super::scoring::Scoring;
use super::sights::Sights;
use super::sink::{Rounded, Sums};
use super::softmax::{self, Running};
use super::{CHUNK, Geometry, KEYS, MultiplyAdd, PANEL, SCORES, slice};
use crate::scratch::Carver;
use crate::simd::{self, Simd};
use crate::strided::{StridedMut, StridedRef};
use core::ops::Range;
use microseq_core::Element;

/// Operands of a forward call.
pub(crate) struct Operands<E> {
    pub(crate) q: StridedRef<E>,
    pub(crate) k: StridedRef<E>,
    pub(crate) v: StridedRef<E>,
    pub(crate) out: StridedMut<E>,
    pub(crate) lse: StridedMut<f32>,
    pub(crate) head_dim: usize,
    /// Rows of a block, at most: whole panels.
    pub(crate) block_rows: usize,
    pub(crate) scoring: Scoring,
}

/// A block of a document's rows, for one K/V head.
pub(crate) struct Block {
    pub(crate) document: DocumentRows,
    pub(crate) kv_head: usize,
    /// The rows: `begin..end`.
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

impl Block {
    /// Whether the rows are the document's opening: a block has all of it, or nothing.
    #[inline(always)]
    fn is_opening(&self) -> bool {
        self.end <= self.document.opening()
    }

    /// The rows of the panel at `panel`.
    #[inline(always)]
    fn panel(&self, panel: usize) -> Range<usize> {
        panel..self.end.min(panel + PANEL)
    }

    /// Where the panels begin.
    #[inline(always)]
    fn panels(&self) -> impl Iterator<Item = usize> {
        (self.begin..self.end).step_by(PANEL)
    }

    /// Where the first tile begins that some of the rows see, and where the last one ends.
    #[inline(always)]
    fn tiles(&self, rows: &Range<usize>) -> Range<usize> {
        let first = self.document.keys(rows.start).start / KEYS * KEYS;
        first..self.document.keys(rows.end - 1).end
    }

    /// Some keys of the tile at `tile`.
    #[inline(always)]
    fn tile<'a, E>(&self, view: &'a StridedRef<E>, tile: usize, head_dim: usize) -> Keys<'a, E> {
        let keys = KEYS.min(self.document.keys(self.end - 1).end.saturating_sub(tile));
        Keys { view, first: self.document.segment.k_begin + tile, keys, head: self.kv_head, head_dim }
    }
}

/// A lane's arrays.
struct Arrays {
    /// The block's queries by words of head_dim.
    q: *mut f32,
    /// Its output, `[row][width]`.
    out: *mut f32,
    running: Running,
    /// Tiles: keys by words of head_dim, transposed, and values by words of keys.
    k: *mut f32,
    v: *mut f32,
    /// A panel's scores of a tile.
    scores: *mut f32,
    /// A chunk of keys on its way.
    staging: *mut f32,
}

impl Arrays {
    fn carve(memory: &mut Carver, geometry: &Geometry, rows: usize) -> Self {
        let Geometry { width, words, .. } = *geometry;
        Self {
            q: memory.take(words / CHUNK * slice(rows)),
            out: memory.take(rows * width),
            running: Running { max: memory.take(rows), sum: memory.take(rows), shrink: memory.take(rows) },
            k: memory.take(geometry.transposed_tile()),
            v: memory.take(geometry.tile_by_keys()),
            scores: memory.take(PANEL * SCORES),
            staging: memory.take(CHUNK * words),
        }
    }
}

/// Bytes of scratch of a lane, for blocks of up to `rows` rows.
pub(crate) fn bytes(geometry: &Geometry, head_dim: usize, rows: usize) -> usize {
    let blocks = Carver::count(|memory| Arrays::carve(memory, geometry, rows));
    blocks.max(opening::forward_bytes(geometry, head_dim))
}

/// All that a step of the pass needs.
struct Call<'a, E> {
    operands: &'a Operands<E>,
    block: &'a Block,
    upcoming: Option<&'a Block>,
    geometry: Geometry,
    arrays: Arrays,
    /// The keys that some row sees, from a tile's begin on.
    tiles: Range<usize>,
}

/// Runs the pass over one block. `upcoming` is what this thread will do next, if it is known.
///
/// # Safety
/// As [`Simd`]; the documents and the heads are inside the operands' views, no other thread touches
/// the block's rows of `out` and `lse`, and `memory` has [`bytes`] for blocks of this many rows and
/// is this thread's alone.
#[inline(always)]
pub(crate) unsafe fn run<P: Products, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    mut memory: Carver,
) {
    let mut ahead = Ahead::new();
    if block.is_opening() {
        // SAFETY: the caller's contract, passed on.
        return unsafe { opening::forward::<P, E>(operands, block, upcoming, &mut ahead, memory) };
    }
    let geometry = Geometry::new(P::A::PER_WORD, operands.head_dim);
    let arrays = Arrays::carve(&mut memory, &geometry, operands.block_rows);
    let tiles = block.tiles(&(block.begin..block.end));
    let call = Call { operands, block, upcoming, geometry, arrays, tiles: tiles.clone() };
    // SAFETY: the caller's contract, passed on.
    unsafe {
        P::begin();
        call.start::<P>();
        for tile in tiles.step_by(KEYS) {
            call.load_tile::<P>(tile);
            for panel in block.panels() {
                let rows = block.panel(panel);
                let own = block.tiles(&rows);
                if tile < own.start || own.end <= tile {
                    continue;
                }
                call.ask(tile, &rows, &mut ahead);
                if tile == own.start {
                    call.load_queries::<P>(&rows);
                }
                call.attend::<P>(tile, &rows, own.end <= tile + KEYS, &mut ahead);
                ahead.finish();
            }
        }
        P::end();
    }
}

impl<E: Element> Call<'_, E> {
    /// Empties the state of all rows.
    ///
    /// # Safety
    /// As [`run`].
    #[inline(always)]
    unsafe fn start<P: Products>(&self) {
        let running = &self.arrays.running;
        for row in (0..self.block.end - self.block.begin).step_by(<P::S as Simd>::LANES) {
            // SAFETY: the arrays hold the block's rows, in whole vectors.
            unsafe {
                P::S::store(running.max.add(row), P::S::splat(f32::NEG_INFINITY));
                P::S::store(running.sum.add(row), P::S::splat(0.0));
            }
        }
    }

    /// Packs a tile of keys and values.
    ///
    /// # Safety
    /// As [`run`]; `tile` is one of the block's.
    #[inline(always)]
    unsafe fn load_tile<P: Products>(&self, tile: usize) {
        let Self { operands, block, arrays, geometry, .. } = self;
        // SAFETY: the keys are the document's; the arrays hold a tile.
        unsafe {
            let keys = block.tile(&operands.k, tile, operands.head_dim);
            keys.pack_transposed::<P::S, P::A>(geometry.words, arrays.staging, arrays.k);
            let values = block.tile(&operands.v, tile, operands.head_dim);
            values.pack_by_keys::<P::S, P::A>(P::PAD, arrays.v);
        }
    }

    /// Where a panel's packed queries and sums lie: among the block's, or, where no second tile will
    /// need them again, in the place of those before.
    #[inline(always)]
    fn place(&self, rows: &Range<usize>) -> usize {
        if self.tiles.len() > KEYS { rows.start - self.block.begin } else { 0 }
    }

    /// Packs a panel's queries.
    ///
    /// # Safety
    /// As [`run`]; the rows are a panel of the block's.
    #[inline(always)]
    unsafe fn load_queries<P: Products>(&self, rows: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        let source = Source {
            view: &operands.q,
            first: block.document.places(rows.start),
            rows: rows.len(),
            head_dim: operands.head_dim,
        };
        // SAFETY: the rows are the document's; the array holds the block's.
        unsafe {
            let to = arrays.q.add(self.place(rows) * CHUNK);
            source.pack::<P::S, P::A>(operands.block_rows, to);
        }
    }

    /// Lists what comes after a panel: on the first tile, the next panel's queries; on the way to the
    /// next tile, a part of it; at the end of the block, what the upcoming one starts with.
    #[inline(always)]
    fn ask(&self, tile: usize, rows: &Range<usize>, ahead: &mut Ahead) {
        let Self { operands, block, upcoming, tiles, .. } = self;
        let share = (rows.start - block.begin, PANEL, block.end - block.begin);
        ahead.clear();
        if tile == tiles.start && rows.end < block.end {
            block.ask_rows(operands, &block.panel(rows.end), ahead);
        }
        if tile + KEYS < tiles.end {
            block.ask_tile(operands, tile + KEYS, share, ahead);
        } else if let Some(upcoming) = upcoming {
            upcoming.ask_start(operands, share, ahead);
        }
        ahead.spread(block.document.size(rows, &(tile..tile + KEYS)));
    }

    /// Takes a panel past the tile at `tile`, which is its last one or not.
    ///
    /// # Safety
    /// As [`run`]; the tile and the panel's queries are packed.
    #[inline(always)]
    unsafe fn attend<P: Products>(&self, tile: usize, rows: &Range<usize>, last: bool, ahead: &mut Ahead) {
        let Self { operands, block, arrays, geometry, .. } = self;
        let sights = Sights::new(&block.document, rows.clone(), tile..tile + KEYS);
        let (place, width, head_dim) = (self.place(rows), geometry.width, operands.head_dim);
        // SAFETY: the arrays hold the tile and the block's rows; the rows are the document's.
        unsafe {
            let running = arrays.running.from(rows.start - block.begin);
            let queries = Rows { words: arrays.q.add(place * CHUNK), capacity: operands.block_rows };
            P::scores(queries, arrays.k, head_dim.div_ceil(geometry.per_word), &sights, arrays.scores, ahead);
            softmax::advance::<P>(&operands.scoring, &sights, arrays.scores, running);
            fold::keys::<P>(arrays.scores, &sights);

            let (p, v, chunks) = (arrays.scores, arrays.v, width / CHUNK);
            let sums = Sums { rows: arrays.out.add(place * width), width };
            let before = Before { sums: sums.rows, width, factors: Some(running.shrink) };
            if !last {
                return P::add_keys(p, v, chunks, &sights, before, sums, ahead);
            }
            let inverse = self.finish::<P>(rows, running);
            let places = block.document.places(rows.start).take(rows.len()).enumerate();
            if head_dim == width {
                let mut out = [arrays.staging.cast::<E>(); PANEL];
                places.for_each(|(i, (row, head))| out[i] = operands.out.at(row, head));
                let sink = Rounded::<P::A, E>::new(&out, &inverse);
                return P::add_keys(p, v, chunks, &sights, before, sink, ahead);
            }
            P::add_keys(p, v, chunks, &sights, before, sums, ahead);
            for (i, (row, head)) in places {
                let sums = sums.rows.add(i * width);
                pack::narrow::<P::S, P::A, E>(sums, inverse[i], head_dim, operands.out.at(row, head));
            }
        }
    }

    /// Writes a panel's `lse`; returns what its output must be multiplied by.
    ///
    /// # Safety
    /// As [`run`]; `running` is past the panel's last tile.
    #[inline(always)]
    unsafe fn finish<P: Products>(&self, rows: &Range<usize>, running: Running) -> [f32; PANEL] {
        let Self { operands, block, .. } = self;
        let (mut lse, mut inverse) = ([0.0f32; PANEL], [0.0f32; PANEL]);
        // SAFETY: the arrays hold the panel in whole vectors; the rows are the document's.
        unsafe {
            for lane in (0..rows.len()).step_by(<P::S as Simd>::LANES) {
                let (max, sum) = (P::S::load(running.max.add(lane)), P::S::load(running.sum.add(lane)));
                let natural = P::S::splat(operands.scoring.natural());
                P::S::store(lse.as_mut_ptr().add(lane), P::S::fma(max, natural, simd::ln::<P::S>(sum)));
                P::S::store(inverse.as_mut_ptr().add(lane), P::S::div(P::S::splat(1.0), sum));
            }
            for (lse, (row, head)) in lse[..rows.len()].iter().zip(block.document.places(rows.start)) {
                *operands.lse.at(row, head) = *lse;
            }
        }
        inverse
    }
}

/// Part of a whole: from `.0` on, `.1` of `.2`.
pub(super) type Share = (usize, usize, usize);

impl Block {
    /// Asks for a share of what the block starts with; with the last, for its first rows.
    #[inline(always)]
    pub(super) fn ask_start<E: Element>(&self, operands: &Operands<E>, share: Share, ahead: &mut Ahead) {
        let rows = if self.is_opening() { self.begin..self.end } else { self.panel(self.begin) };
        self.ask_tile(operands, self.tiles(&rows).start, share, ahead);
        if share.0 + share.1 >= share.2 {
            self.ask_rows(operands, &rows, ahead);
        }
    }

    /// Asks for a panel's queries and the place of its output.
    #[inline(always)]
    fn ask_rows<E: Element>(&self, operands: &Operands<E>, rows: &Range<usize>, ahead: &mut Ahead) {
        let places = self.document.places(rows.start);
        ahead.add(operands.q.span(places, rows.len(), operands.head_dim));
        ahead.add(operands.out.span(places, rows.len(), operands.head_dim));
    }

    /// Asks for a share of the keys and values of the tile at `tile`.
    #[inline(always)]
    fn ask_tile<E: Element>(
        &self,
        operands: &Operands<E>,
        tile: usize,
        (done, step, all): Share,
        ahead: &mut Ahead,
    ) {
        for view in [&operands.k, &operands.v] {
            let Keys { first, keys, head, .. } = self.tile(view, tile, operands.head_dim);
            let part = done * keys / all..(done + step).min(all) * keys / all;
            let places = super::rows::Places::down(first + part.start, head);
            ahead.add(view.span(places, part.len(), operands.head_dim));
        }
    }
}
