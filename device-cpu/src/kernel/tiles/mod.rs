//! Products on tile registers: bf16 words, sixteen rows by sixteen words at a time.
//!
//! A tile of sums is `[16 rows][16]` f32. One instruction adds to it the products of a tile of rows, `[16
//! rows][16 words]`, with a tile of columns, `[16 words][16]`: the layouts in which operands are packed
//! already, so that every tile of them is a kilobyte in a row. Only scores by words of rows must be turned
//! to be a tile of rows.
//!
//! The instruction sums up its sixteen words before it adds them to what is there. So sums go by 32 rows
//! or keys at a time, counted from the document's begin.

mod hardware;
#[cfg(test)]
mod model;
mod product;
#[cfg(test)]
mod tests;

use super::ahead::Ahead;
use super::gemm::Before;
use super::products::{Products, Rows};
use super::sights::{Group, Sights};
use super::sink::Sink;
use super::{Arithmetic, Bf16Pairs, CHUNK, KEYS, ROWS, SCORES, slice};
use crate::simd::{Avx512, Simd};
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr;
use product::{Pair, Staging, bytes};

pub(crate) use hardware::Hardware;
#[cfg(test)]
pub(crate) use model::Model;
pub(crate) use product::{Product, TileUnit};

/// Rows of a tile, and words of a row.
const SIDE: usize = 16;

/// Rows or keys that an instruction sums up.
const DEPTH: usize = 2 * SIDE;

/// [`Products`] on tile registers.
pub(crate) struct Tiles<U>(PhantomData<U>);

impl<U: TileUnit> Products for Tiles<U> {
    type S = Avx512;
    type A = Bf16Pairs;
    const GROUP: usize = DEPTH;
    const REACH: usize = DEPTH;
    const PAD: usize = DEPTH;

    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: the caller's contract, passed on.
        unsafe { U::begin() }
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: the caller's contract, passed on.
        unsafe { U::end() }
    }

    #[inline(always)]
    unsafe fn scores(
        rows: Rows,
        keys: *const f32,
        words: usize,
        sights: &Sights,
        to: *mut f32,
        ahead: &mut Ahead,
    ) {
        let chunks = words.div_ceil(CHUNK);
        let (row_slice, key_slice) = (slice(rows.capacity), slice(chunks * CHUNK));
        let seen = sights.all();
        for key in (seen.start / DEPTH * DEPTH..seen.end).step_by(DEPTH) {
            for group in sights.groups(DEPTH).filter(|group| group.reach(DEPTH).contains(&key)) {
                ahead.step();
                // SAFETY: rows and keys are inside the operands, which are whole tiles.
                unsafe {
                    let rows = rows.words.add(group.first * CHUNK);
                    let keys = keys.add(key / CHUNK * key_slice);
                    let to = to.add(group.first * SCORES + key);
                    if group.rows > SIDE {
                        scores::<U, true>(rows, row_slice, keys, key_slice, chunks, to);
                    } else {
                        scores::<U, false>(rows, row_slice, keys, key_slice, chunks, to);
                    }
                }
            }
        }
    }

    /// `[32 rows][KEYS][16]`: words of rows along a key.
    #[inline(always)]
    unsafe fn fold_rows(scores: *const f32, sights: &Sights, to: *mut f32) -> *const f32 {
        let mut staging = Staging::new();
        for group in sights.groups(DEPTH) {
            for key in group.reach(DEPTH).step_by(SIDE) {
                // SAFETY: the group's scores are there; `to` holds `[ROWS / 32][KEYS][16]` words.
                unsafe {
                    pairs_of_rows(scores.add(group.first * SCORES + key), &group, staging.rows());
                    let to = to.add((group.first / DEPTH * KEYS + key) * SIDE);
                    Avx512::transpose(staging.rows(), SIDE, to, SIDE);
                }
            }
        }
        to
    }

    #[inline(always)]
    unsafe fn add_keys<K: Sink<Avx512>>(
        scores: *const f32,
        keys: *const f32,
        chunks: usize,
        sights: &Sights,
        before: Before,
        sink: K,
        ahead: &mut Ahead,
    ) {
        for column in (0..chunks * CHUNK).step_by(2 * CHUNK) {
            let two = column + CHUNK < chunks * CHUNK;
            for group in sights.groups(DEPTH).filter(|group| K::LAST || group.begin < group.end) {
                ahead.step();
                // SAFETY: rows, keys and columns are inside the operands, which are whole tiles.
                unsafe {
                    match (group.rows > SIDE, two) {
                        (true, true) => {
                            outputs::<U, K, true, true>(scores, keys, column, &group, before, sink)
                        }
                        (true, false) => {
                            outputs::<U, K, true, false>(scores, keys, column, &group, before, sink)
                        }
                        (false, true) => {
                            outputs::<U, K, false, true>(scores, keys, column, &group, before, sink)
                        }
                        (false, false) => {
                            outputs::<U, K, false, false>(scores, keys, column, &group, before, sink)
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_rows(
        scores: *const f32,
        rows: *const f32,
        chunks: usize,
        sights: &Sights,
        to: *mut f32,
        ahead: &mut Ahead,
    ) {
        for column in (0..chunks * CHUNK).step_by(2 * CHUNK) {
            let two = column + CHUNK < chunks * CHUNK;
            for (key, seeing) in sights.seen(DEPTH) {
                ahead.step();
                let blocks = seeing.start / DEPTH..seeing.end.div_ceil(DEPTH);
                // SAFETY: rows, keys and columns are inside the operands, which are whole tiles.
                unsafe {
                    let (rows, to) = (rows.add(column / CHUNK * slice(ROWS / 2)), to.add(column));
                    if two {
                        gradients::<U, true>(scores, rows, key, blocks, to, chunks * CHUNK);
                    } else {
                        gradients::<U, false>(scores, rows, key, blocks, to, chunks * CHUNK);
                    }
                }
            }
        }
    }
}

/// Writes words of sixteen pairs of a group's rows, at sixteen keys from `scores` on, `[pair][16]`; 0
/// behind the last row.
///
/// # Safety
/// The group's scores are there, `to` holds sixteen times sixteen words; the CPU has AVX512-BF16.
#[inline(always)]
unsafe fn pairs_of_rows(scores: *const f32, group: &Group, to: *mut f32) {
    for pair in 0..SIDE {
        // SAFETY: the rows are the group's; the caller vouches for `to`.
        unsafe {
            let row = |row: usize| {
                if row < group.rows { Avx512::load(scores.add(row * SCORES)) } else { Avx512::splat(0.0) }
            };
            let words = <Bf16Pairs as Arithmetic<Avx512>>::pair(row(2 * pair), row(2 * pair + 1));
            Avx512::store(to.add(pair * SIDE), words);
        }
    }
}

/// Scores of 16 rows, or 32, with 32 keys.
///
/// # Safety
/// As [`TileUnit`]; the operands are whole tiles.
#[inline(always)]
unsafe fn scores<U: TileUnit, const TWO_ROWS: bool>(
    rows: *const f32,
    row_slice: usize,
    keys: *const f32,
    key_slice: usize,
    chunks: usize,
    to: *mut f32,
) {
    let product = Product {
        rows: Pair::new(rows, SIDE * CHUNK, row_slice),
        row_stride: bytes(CHUNK),
        columns: Pair::new(keys, key_slice, SIDE * CHUNK),
        steps: chunks,
        before: ptr::null(),
        before_stride: 0,
        to,
        to_stride: bytes(SCORES),
    };
    // SAFETY: the caller vouches for the operands.
    unsafe { U::multiply::<TWO_ROWS, true>(&product) }
}

/// Sums over the keys of a group of 16 rows, or 32, at 16 columns, or 32, from `column` on.
///
/// # Safety
/// As [`TileUnit`]; the operands are whole tiles.
#[inline(always)]
unsafe fn outputs<U: TileUnit, K: Sink<Avx512>, const TWO_ROWS: bool, const TWO_COLUMNS: bool>(
    scores: *const f32,
    keys: *const f32,
    column: usize,
    group: &Group,
    before: Before,
    sink: K,
) {
    let (key_slice, reach) = (slice(KEYS / 2), group.reach(DEPTH));
    let (side_rows, side_columns) = (side(TWO_ROWS), side(TWO_COLUMNS));
    // SAFETY: the caller vouches for the operands.
    unsafe {
        let before = before.from(group.first, column);
        if !group.fresh {
            shrink(before, side_rows, side_columns);
        }
        let scores = scores.add(group.first * SCORES + reach.start / 2);
        let keys = keys.add(column / CHUNK * key_slice + reach.start / 2 * CHUNK);
        let in_memory = sink.rows_in_memory(group.first, column);
        let mut staging = Staging::new();
        let (to, stride) = in_memory.unwrap_or((staging.rows(), Staging::WIDTH));
        U::multiply::<TWO_ROWS, TWO_COLUMNS>(&Product {
            rows: Pair::new(scores, SIDE * SCORES, SIDE),
            row_stride: bytes(SCORES),
            columns: Pair::new(keys, key_slice, SIDE * CHUNK),
            steps: reach.len() / DEPTH,
            before: if group.fresh { ptr::null() } else { before.sums },
            before_stride: bytes(before.width),
            to,
            to_stride: bytes(stride),
        });
        if in_memory.is_none() {
            for row in 0..side_rows {
                for right in (0..side_columns).step_by(SIDE) {
                    let v = Avx512::load(to.add(row * Staging::WIDTH + right));
                    sink.put(group.first + row, column + right, v);
                }
            }
        }
    }
}

/// Sixteen, or twice as many.
const fn side(two: bool) -> usize {
    if two { 2 * SIDE } else { SIDE }
}

/// Multiplies sums of earlier keys by their rows' factors, in place: they are read once more, at once.
///
/// # Safety
/// As [`Simd`]; `before` reaches so many rows and columns, which this thread alone uses.
#[inline(always)]
unsafe fn shrink(before: Before, rows: usize, columns: usize) {
    let Some(factors) = before.factors else { return };
    for row in 0..rows {
        // SAFETY: the caller vouches for the rows.
        unsafe {
            let factor = *factors.add(row);
            // Most rows keep their maximum.
            if factor == 1.0 {
                continue;
            }
            for column in (0..columns).step_by(SIDE) {
                let sums = before.sums.add(row * before.width + column);
                Avx512::store(sums, Avx512::mul(Avx512::load(sums), Avx512::splat(factor)));
            }
        }
    }
}

/// Adds to the gradients of 32 keys, from `key` on, at 16 columns or 32, the blocks of 32 rows `blocks`,
/// descending.
///
/// # Safety
/// As [`TileUnit`]; the operands are whole tiles.
#[inline(always)]
unsafe fn gradients<U: TileUnit, const TWO_COLUMNS: bool>(
    scores: *const f32,
    rows: *const f32,
    key: usize,
    blocks: Range<usize>,
    to: *mut f32,
    width: usize,
) {
    // SAFETY: the caller vouches for the operands.
    unsafe {
        let (scores, to) = (scores.add((blocks.start * KEYS + key) * SIDE), to.add(key * width));
        let rows = rows.add(blocks.start * SIDE * CHUNK);
        U::multiply::<true, TWO_COLUMNS>(&Product {
            rows: Pair::new(scores, SIDE * SIDE, KEYS * SIDE).reversed(blocks.len()),
            row_stride: bytes(SIDE),
            columns: Pair::new(rows, slice(ROWS / 2), SIDE * CHUNK).reversed(blocks.len()),
            steps: blocks.len(),
            before: to,
            before_stride: bytes(width),
            to,
            to_stride: bytes(width),
        });
    }
}

const _: () = assert!(ROWS.is_multiple_of(DEPTH) && KEYS.is_multiple_of(DEPTH));
const _: () = assert!(ROWS / DEPTH * KEYS * SIDE <= ROWS / 2 * SCORES, "fold_rows has room");
