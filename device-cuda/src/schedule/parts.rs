//! Walks cut into parts. Each sums up dk and dv of its own, from zero, and these are added to the store one after the
//! other, so different blocks can work on a walk at the same time.

use super::{Weighed, check, keep_in_order};
use crate::CudaError;
use crate::args::{KeyTile, PartSums};
use crate::shape::WgmmaBackward;
use core::cmp::Reverse;
use microseq_core::Attention;

/// With so many K/V heads there are walks enough for all blocks.
const MANY_HEADS: usize = 8;

/// Pieces of work for each block, up to which parts leave their sums for `add_parts`. It bounds the scratch that
/// takes; where there are more, parts wait for each other at their ends only, and seldom for long.
const PIECES_APART: usize = 16;

/// What the device's cache holds, roughly.
const CACHE: usize = 48 << 20;

/// How many query tiles of a document add up their dk and dv before these are added to the store, where that is so.
/// The operator alone decides, since the bits of dk and dv depend on it.
pub(crate) fn part(attention: &Attention) -> Option<usize> {
    let (heads, windowed) = (attention.kv_heads(), attention.mask().window.is_some());
    // The fewer heads, the shorter: what a part takes to begin and end is a few tiles' time.
    (heads < MANY_HEADS || windowed).then(|| (16 * (heads + 1)).min(64))
}

/// Cuts the walks of a step, where they are cut.
pub(crate) struct Parts {
    cut: Option<Cut>,
    /// What is left for `add_parts`, and how many parts that is.
    pub(crate) sums: Vec<PartSums>,
    pub(crate) count: usize,
}

#[derive(Clone, Copy)]
struct Cut {
    /// Query tiles of a part.
    part: i32,
    order: Order,
    /// Keys of a tile.
    keys: i32,
}

/// In which order blocks take a document's parts, and how these come to the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// All key tiles that meet the same queries together: blocks would be all over the step otherwise, and what they
    /// share does not fit the device's cache. In turn.
    Windowed,
    /// So many parts at a time, all of a key tile together, since those of one part wait for each other. `add_parts`
    /// adds all but the first of a walk.
    Apart { band: i32 },
    /// So many parts at a time, by diagonals: dq over key tiles and dk, dv over parts advance at the same pace. In turn.
    InTurn { band: i32 },
}

impl Parts {
    /// For walks by document and a device that runs so many blocks at a time.
    pub(crate) fn new(
        attention: &Attention,
        shape: &WgmmaBackward,
        walks: &[Vec<KeyTile>],
        blocks: usize,
    ) -> Result<Self, CudaError> {
        let heads = attention.kv_heads();
        let part = part(attention).map(|part| part as i32);
        let count =
            |walk: &KeyTile| part.map_or(1, |part| last_part(walk, part) - first_part(walk, part) + 1);
        let pieces: usize = walks.iter().flatten().map(|walk| count(walk) as usize).sum();
        let pieces = pieces.saturating_mul(heads);
        check("parts of walks times kv_heads", pieces)?;
        let order = |part: i32| {
            // q and dout in 16 bits, dq in 32.
            let cached = CACHE / (shape.rows * shape.head_dim * 8 * heads);
            let band = (cached as i32 / part).max(1);
            if heads >= MANY_HEADS {
                Order::Windowed
            } else if pieces <= PIECES_APART * blocks {
                Order::Apart { band }
            } else {
                Order::InTurn { band }
            }
        };
        let cut = part.map(|part| Cut { part, order: order(part), keys: shape.keys as i32 });
        Ok(Self { cut, sums: Vec::new(), count: 0 })
    }

    /// A document's walks or, where they are cut, their parts, in the order in which blocks take them: what waits for
    /// others is behind them.
    pub(crate) fn of_document(&mut self, walks: Vec<KeyTile>) -> Vec<Weighed<KeyTile>> {
        let mut pieces = walks;
        if let Some(cut) = self.cut {
            pieces = pieces.into_iter().flat_map(|walk| self.parts_of(walk, cut)).collect();
            pieces.sort_by_key(|piece| (cut.place(piece), Reverse(piece.begin)));
        }
        let weigh = |piece: KeyTile| ((piece.end - piece.begin) as u64, piece);
        let mut pieces: Vec<_> = pieces.into_iter().map(weigh).collect();
        keep_in_order(&mut pieces);
        pieces
    }

    /// A walk's parts, the last query tiles first: cut where `part` divides the number of a query tile, so that those of
    /// all key tiles of a document are cut alike.
    fn parts_of(&mut self, walk: KeyTile, cut: Cut) -> impl Iterator<Item = KeyTile> + use<> {
        let (first, last) = (first_part(&walk, cut.part), last_part(&walk, cut.part));
        // How many add their sums themselves: they come before those who leave them.
        let adding = if matches!(cut.order, Order::Apart { .. }) { 1 } else { last - first + 1 };
        let left = last - first + 1 - adding;
        let first_left = self.count as i32;
        if left > 0 {
            self.sums.push(PartSums {
                key_row: walk.key_row,
                keys: walk.keys,
                first: first_left,
                count: left,
            });
            self.count += left as usize;
        }
        (first..=last).rev().zip(0..).map(move |(part, before)| {
            let begin = walk.begin.max(part * cut.part);
            let end = walk.end.min((part + 1) * cut.part);
            let adds = before < adding;
            KeyTile {
                begin,
                end,
                seen_begin: walk.seen_begin.map(|tile| tile.clamp(begin, end)),
                from_zero: 1,
                adds: adds.into(),
                before: if adds { before } else { 0 },
                after: if adds { adding - 1 - before } else { 0 },
                part: if adds { -1 } else { first_left + before - adding },
                ..walk
            }
        })
    }
}

impl Cut {
    fn place(&self, piece: &KeyTile) -> (Reverse<i32>, i32) {
        let (key_tile, part) = (piece.key / self.keys, first_part(piece, self.part));
        match self.order {
            Order::Windowed => (Reverse(part), key_tile),
            Order::Apart { band } => (Reverse(part.div_euclid(band)), key_tile),
            Order::InTurn { band } => (Reverse(part.div_euclid(band)), key_tile - part),
        }
    }
}

fn first_part(walk: &KeyTile, part: i32) -> i32 {
    walk.begin.div_euclid(part)
}

fn last_part(walk: &KeyTile, part: i32) -> i32 {
    (walk.end - 1).div_euclid(part)
}
