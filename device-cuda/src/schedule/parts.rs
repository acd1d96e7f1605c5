//! Walks cut into parts. Each sums up dk and dv of its own, from zero, and these are added to the store one after the
//! other, so different blocks can work on a walk at the same time.

use crate::args::{DkvSums, KeyTile};
use microseq_core::Attention;

/// With so many K/V heads there are walks enough for all blocks.
const MANY_HEADS: usize = 8;

/// How many query tiles of a document add up their dk and dv before these are added to the store, where that is so.
/// The operator alone decides, since the bits of dk and dv depend on it. Powers of two, as steps mostly are.
pub(crate) fn part(attention: &Attention) -> Option<usize> {
    let (heads, windowed) = (attention.kv_heads(), attention.mask().window.is_some());
    // The fewer heads, the shorter: what a part takes to begin and end is a few tiles' time.
    (heads < MANY_HEADS || windowed).then_some(if heads <= 2 { 32 } else { 64 })
}

/// How many parts of so many query tiles a walk has.
pub(super) fn count_parts(walk: &KeyTile, part: i32) -> usize {
    (last_part(walk, part) - first_part(walk, part) + 1) as usize
}

/// A walk's parts, the last query tiles first: cut where `part` divides the number of a query tile, so that those of
/// all key tiles of a document are cut alike.
pub(super) fn parts_of(walk: KeyTile, part: i32) -> impl Iterator<Item = KeyTile> {
    let (first, last) = (first_part(&walk, part), last_part(&walk, part));
    (first..=last).rev().map(move |number| {
        let begin = walk.begin.max(number * part);
        let end = walk.end.min((number + 1) * part);
        KeyTile {
            begin,
            end,
            seen_begin: walk.seen_begin.map(|tile| tile.clamp(begin, end)),
            sums: DkvSums::Added as i32,
            before: last - number,
            after: number - first,
            ..walk
        }
    })
}

fn first_part(walk: &KeyTile, part: i32) -> i32 {
    walk.begin.div_euclid(part)
}

fn last_part(walk: &KeyTile, part: i32) -> i32 {
    (walk.end - 1).div_euclid(part)
}
