//! Walks cut into parts. Each sums up dk and dv of its own, from zero, and these are added to the store one after the
//! other, so different blocks can work on a walk at the same time. `Shape::part` and `WgmmaBackward::part` say where.

use super::check;
use super::order::in_order;
use crate::CudaError;
use core::ops::Range;

/// What the device's cache holds, roughly: chains of parts are in use as a whole.
const CACHE_OF_PARTS: usize = 48 << 20;
/// Of whole walks that follow each other at some distance, a third of the queries they meet is in use at a time.
const CACHE_OF_WALKS: usize = 3 * CACHE_OF_PARTS;

/// A part of a walk, or all of it: what a block does at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// The walk's number.
    pub(super) walk: usize,
    /// The query tiles that it meets.
    pub(super) begin: i32,
    pub(super) end: i32,
    /// How many parts of the walk add their sums before and after this one.
    pub(super) before: i32,
    pub(super) after: i32,
}

/// The parts of walks in the order in which `blocks` at a time should begin them. Walks are given by document, keys
/// ascending, and have numbers through all documents; `tiles` says which query tiles they meet. They are cut at multiples
/// of `part` query tiles, or not at all. A query tile has so many elements for each of the K/V heads.
pub(super) fn parts_in_order<W>(
    walks: &[Vec<W>],
    tiles: impl Fn(&W) -> Range<i32>,
    part: Option<usize>,
    heads: usize,
    query_tile: usize,
    blocks: usize,
) -> Result<Vec<Part>, CudaError> {
    let part = part.map(|part| part as i32);
    let count: usize = walks.iter().flatten().map(|walk| numbers(&tiles(walk), part).len()).sum();
    check("parts of walks times kv_heads", count.saturating_mul(heads))?;
    let mut walk = 0;
    let documents: Vec<Vec<_>> = walks
        .iter()
        .map(|walks| {
            let first = walk;
            walk += walks.len();
            walks.iter().zip(first..).flat_map(|(walk, number)| parts_of(tiles(walk), number, part)).collect()
        })
        .collect();
    let cache = if part.is_some() { CACHE_OF_PARTS } else { CACHE_OF_WALKS };
    // q and dout in 16 bits, dq in 32.
    let cached = cache / (8 * query_tile * heads);
    Ok(in_order(&documents, part, heads, blocks, cached as i64))
}

/// A walk's parts, the last query tiles first: cut where `part` divides the number of a query tile, so that those of
/// all key tiles of a document are cut alike.
fn parts_of(tiles: Range<i32>, walk: usize, part: Option<i32>) -> impl Iterator<Item = Part> {
    let Range { start, end } = numbers(&tiles, part);
    (start..end).rev().map(move |number| {
        let of_part = part.map_or(tiles.clone(), |part| number * part..(number + 1) * part);
        Part {
            walk,
            begin: tiles.start.max(of_part.start),
            end: tiles.end.min(of_part.end),
            before: end - 1 - number,
            after: number - start,
        }
    })
}

/// The numbers of the parts of a walk, counted from position 0.
fn numbers(tiles: &Range<i32>, part: Option<i32>) -> Range<i32> {
    part.map_or(0..1, |part| tiles.start.div_euclid(part)..(tiles.end - 1).div_euclid(part) + 1)
}
