//! Walks cut into parts. Each sums up dk and dv of its own, from zero, and these are added to the store one after the
//! other, so different blocks can work on a walk at the same time. `cuts.rs` says where.

use super::check;
use super::order::in_order;
use crate::CudaError;
use crate::cuts::Cuts;
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
/// ascending, and have numbers through all documents; `tiles` says which query tiles they meet. They are cut as
/// `cuts` says, or not at all. A query tile has so many elements for each of the K/V heads.
pub(super) fn parts_in_order<W>(
    walks: &[Vec<W>],
    tiles: impl Fn(&W) -> Range<i32>,
    cuts: Option<Cuts>,
    heads: usize,
    query_tile: usize,
    blocks: usize,
) -> Result<Vec<Part>, CudaError> {
    let count: usize = walks.iter().flatten().map(|walk| numbers(&tiles(walk), cuts).len()).sum();
    check("parts of walks times kv_heads", count.saturating_mul(heads))?;
    let mut walk = 0;
    let documents: Vec<Vec<_>> = walks
        .iter()
        .map(|walks| {
            let first = walk;
            walk += walks.len();
            walks.iter().zip(first..).flat_map(|(walk, number)| parts_of(tiles(walk), number, cuts)).collect()
        })
        .collect();
    let cache = if cuts.is_some() { CACHE_OF_PARTS } else { CACHE_OF_WALKS };
    // q and dout in 16 bits, dq in 32.
    let cached = cache / (8 * query_tile * heads);
    Ok(in_order(&documents, cuts, heads, blocks, cached as i64))
}

/// A walk's parts, the last query tiles first.
fn parts_of(tiles: Range<i32>, walk: usize, cuts: Option<Cuts>) -> impl Iterator<Item = Part> {
    let Range { start, end } = numbers(&tiles, cuts);
    (start..end).rev().map(move |number| {
        let of_part = cuts.map_or(tiles.clone(), |cuts| cuts.tiles(number));
        Part {
            walk,
            begin: tiles.start.max(of_part.start),
            end: tiles.end.min(of_part.end),
            before: end - 1 - number,
            after: number - start,
        }
    })
}

/// The numbers of the parts of a walk.
fn numbers(tiles: &Range<i32>, cuts: Option<Cuts>) -> Range<i32> {
    cuts.map_or(0..1, |cuts| cuts.number(tiles.start)..cuts.number(tiles.end - 1) + 1)
}
