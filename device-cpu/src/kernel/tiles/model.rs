//! A unit in software: what the instructions do, bit for bit, by the manual's description.

use super::{Product, SIDE, TileUnit};
use std::cell::Cell;

/// Registers are variables.
pub(crate) struct Model;

type Tile = [[f32; SIDE]; SIDE];

thread_local! {
    static IN_USE: Cell<bool> = const { Cell::new(false) };
}

impl TileUnit for Model {
    unsafe fn begin() {
        assert!(!IN_USE.replace(true), "taken twice");
    }

    unsafe fn end() {
        assert!(IN_USE.replace(false), "given back untaken");
    }

    unsafe fn multiply<const TWO_ROWS: bool, const TWO_COLUMNS: bool>(product: &Product) {
        assert!(IN_USE.get(), "not taken");
        let Product { rows, columns, .. } = product;
        for (lower, rows_first) in
            [rows.first, rows.second].into_iter().take(1 + usize::from(TWO_ROWS)).enumerate()
        {
            let columns = [columns.first, columns.second].into_iter().take(1 + usize::from(TWO_COLUMNS));
            for (right, columns_first) in columns.enumerate() {
                // SAFETY: the caller's pointers reach those tiles.
                unsafe { multiply_tile(product, rows_first, columns_first, lower, right) }
            }
        }
    }
}

/// One tile of sums, in the lower rows or not and the right columns or not.
///
/// # Safety
/// As [`TileUnit::multiply`].
unsafe fn multiply_tile(
    product: &Product,
    rows: *const f32,
    columns: *const f32,
    lower: usize,
    right: usize,
) {
    let place = |stride: isize| (lower * SIDE) as isize * stride + (right * 64) as isize;
    let mut sums = [[0.0; SIDE]; SIDE];
    // SAFETY: the caller's pointers reach the tiles.
    unsafe {
        if !product.before.is_null() {
            let before = product.before.byte_offset(place(product.before_stride));
            sums = load(before, product.before_stride);
        }
        for step in 0..product.steps as isize {
            let rows = load(rows.byte_offset(step * product.rows.step), product.row_stride);
            let columns = load(columns.byte_offset(step * product.columns.step), 64);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                multiply_row(sums, row, &columns);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            let to = product.to.byte_offset(place(product.to_stride) + i as isize * product.to_stride);
            to.cast::<[f32; SIDE]>().write_unaligned(*row);
        }
    }
}

/// Sixteen rows of sixteen words, which any bits are.
///
/// # Safety
/// The pointer reaches them.
unsafe fn load(from: *const f32, stride: isize) -> Tile {
    core::array::from_fn(|i| {
        // SAFETY: the caller vouches for the row.
        unsafe { from.byte_offset(i as isize * stride).cast::<[f32; SIDE]>().read_unaligned() }
    })
}

/// Even and odd products are summed up apart, then together, then added to what is there.
fn multiply_row(sums: &mut [f32; SIDE], row: &[f32; SIDE], columns: &Tile) {
    let (mut even, mut odd) = ([0.0f32; SIDE], [0.0f32; SIDE]);
    for (word, column) in row.iter().zip(columns) {
        for n in 0..SIDE {
            even[n] = flush(low(*word).mul_add(low(column[n]), even[n]));
            odd[n] = flush(high(*word).mul_add(high(column[n]), odd[n]));
        }
    }
    for n in 0..SIDE {
        sums[n] = flush(flush(sums[n]) + flush(even[n] + odd[n]));
    }
}

/// The bf16 in the lower half of a word, numbers below the normal ones as 0.
fn low(word: f32) -> f32 {
    flush(f32::from_bits(word.to_bits() << 16))
}

/// The bf16 in the upper half.
fn high(word: f32) -> f32 {
    flush(f32::from_bits(word.to_bits() & 0xffff_0000))
}

/// Numbers below the normal ones count as 0.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}
