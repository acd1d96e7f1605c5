//! Walks cut into parts. Each sums up dk and dv of its own, from zero, and these are added to the store one after the
//! other, so different blocks can work on a walk at the same time.

use super::check;
use super::order::{Span, in_order};
use crate::CudaError;
use crate::args::{DkvSums, KeyTile, Walk};
use core::ops::Range;
use microseq_core::Attention;

/// With so many K/V heads there are walks enough for all blocks.
const MANY_HEADS: usize = 8;

/// What the device's cache holds, roughly: chains of parts are in use as a whole.
const CACHE_OF_PARTS: usize = 48 << 20;
/// Of whole walks that follow each other at some distance, a third of the queries they meet is in use at a time.
const CACHE_OF_WALKS: usize = 3 * CACHE_OF_PARTS;

/// How many query tiles of a document, of so many rows, add up their dk and dv before these are added to the store, where
/// that is so. The operator alone decides, since the bits of dk and dv depend on it. Powers of two, as steps mostly are.
///
/// Where heads are few, else blocks would have nothing to do; and in windows, if that is worth it for the kernel.
pub(crate) fn part(attention: &Attention, tile_rows: usize, in_windows: bool) -> Option<usize> {
    let (heads, windowed) = (attention.kv_heads(), attention.mask().window.is_some());
    // The fewer heads, the shorter: what a part takes to begin and end is a few tiles' time.
    let rows = if heads <= 2 { 2048 } else { 4096 };
    (heads < MANY_HEADS || in_windows && windowed).then_some(rows / tile_rows)
}

/// What can be cut: a walk over query tiles.
pub(super) trait Cut: Span {
    /// The part that meets some of the query tiles, with as many parts before and after it.
    fn part(&self, tiles: Range<i32>, before: i32, after: i32) -> Self;
}

/// Walks by document, keys ascending, cut into parts of so many query tiles where that is so, in the order in which `blocks`
/// at a time should begin them. A query tile takes so many bytes of operands for each of the K/V heads.
pub(super) fn pieces<T: Cut>(
    mut walks: Vec<Vec<T>>,
    part: Option<usize>,
    heads: usize,
    query_tile: usize,
    blocks: usize,
) -> Result<Vec<T>, CudaError> {
    let part = part.map(|part| part as i32);
    if let Some(part) = part {
        let count: usize = walks.iter().flatten().map(|walk| numbers(walk, part).len()).sum();
        check("parts of walks times kv_heads", count.saturating_mul(heads))?;
        let cut = |walks: Vec<T>| walks.into_iter().flat_map(|walk| parts_of(walk, part)).collect();
        walks = walks.into_iter().map(cut).collect();
    }
    let cache = if part.is_some() { CACHE_OF_PARTS } else { CACHE_OF_WALKS };
    Ok(in_order(&walks, part, heads, blocks, (cache / (query_tile * heads)) as i64))
}

/// A walk's parts, the last query tiles first: cut where `part` divides the number of a query tile, so that those of
/// all key tiles of a document are cut alike.
fn parts_of<T: Cut>(walk: T, part: i32) -> impl Iterator<Item = T> {
    let Range { start, end } = numbers(&walk, part);
    (start..end).rev().map(move |number| {
        let tiles = walk.begin().max(number * part)..walk.end().min((number + 1) * part);
        walk.part(tiles, end - 1 - number, number - start)
    })
}

/// The parts that a walk has, counted from position 0.
fn numbers(walk: &impl Span, part: i32) -> Range<i32> {
    walk.begin().div_euclid(part)..(walk.end() - 1).div_euclid(part) + 1
}

impl Cut for KeyTile {
    fn part(&self, tiles: Range<i32>, before: i32, after: i32) -> Self {
        let Range { start: begin, end } = tiles;
        Self {
            begin,
            end,
            seen_begin: self.seen_begin.map(|tile| tile.clamp(begin, end)),
            sums: DkvSums::Added as i32,
            before,
            after,
            ..*self
        }
    }
}

impl Cut for Walk {
    fn part(&self, tiles: Range<i32>, before: i32, _: i32) -> Self {
        Self { begin: tiles.start, end: tiles.end, before, ..*self }
    }
}

impl Span for KeyTile {
    fn begin(&self) -> i32 {
        self.begin
    }
    fn end(&self) -> i32 {
        self.end
    }
    fn before(&self) -> i32 {
        self.before
    }
}

impl Span for Walk {
    fn begin(&self) -> i32 {
        self.begin
    }
    fn end(&self) -> i32 {
        self.end
    }
    fn before(&self) -> i32 {
        self.before
    }
}
