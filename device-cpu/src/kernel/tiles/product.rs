//! One product of tiles: what a unit takes from memory, and what it puts there.

use super::SIDE;
use core::mem::{MaybeUninit, size_of};

/// Sums of sixteen rows by sixteen columns, or twice as many of either:
/// `to = before + sum over steps of rows * columns`.
///
/// A tile of `rows` is sixteen rows of sixteen words, a tile of `columns` sixteen words of sixteen columns,
/// a kilobyte in a row. Sums are `[row][column]`, the right columns behind the left ones.
///
/// The unit's instructions read this, so its layout is fixed, and what is not a pointer counts bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(super) rows: Pair,
    /// From a row to the next.
    pub(super) row_stride: isize,
    pub(super) columns: Pair,
    /// Tiles of rows, and of columns, that are summed up.
    pub(super) steps: usize,
    /// What the sums start from: nothing where this is null.
    pub(super) before: *const f32,
    pub(super) before_stride: isize,
    pub(super) to: *mut f32,
    pub(super) to_stride: isize,
}

/// The upper and the lower rows, or the left and the right columns: the first tile of each.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(super) first: *const f32,
    pub(super) second: *const f32,
    /// From a tile to the next step's.
    pub(super) step: isize,
}

/// Bytes of so many words.
pub(super) const fn bytes(words: usize) -> isize {
    (words * size_of::<f32>()) as isize
}

impl Pair {
    /// The second tile `apart` words behind the first, every step `step` words behind the one before.
    #[inline(always)]
    pub(super) const fn new(first: *const f32, apart: usize, step: usize) -> Self {
        Self { first, second: first.wrapping_add(apart), step: bytes(step) }
    }

    /// The same steps from the last to the first.
    #[inline(always)]
    pub(super) const fn reversed(self, steps: usize) -> Self {
        let Self { first, second, step } = self;
        let last = step * (steps as isize - 1);
        Self {
            first: first.wrapping_byte_offset(last),
            second: second.wrapping_byte_offset(last),
            step: -step,
        }
    }
}

/// A unit with registers for tiles.
///
/// # Safety
/// Calling any function needs a machine that has the unit and an operating system that keeps its registers;
/// products come between `begin` and `end` on the same thread.
pub(crate) trait TileUnit {
    /// Takes the unit into use.
    unsafe fn begin();

    /// Gives it back.
    unsafe fn end();

    /// Multiplies. The pointers reach the tiles, of the upper rows and the left columns only where
    /// there are no others.
    ///
    /// Each step is summed up apart, in the unit's own order, and then added.
    unsafe fn multiply<const TWO_ROWS: bool, const TWO_COLUMNS: bool>(product: &Product);
}

/// Room for words on their way to or from a unit: twice sixteen rows of twice sixteen sums, or less.
#[repr(align(64))]
pub(super) struct Staging(MaybeUninit<[f32; Self::WIDTH * Self::WIDTH]>);

impl Staging {
    pub(super) const WIDTH: usize = 2 * SIDE;

    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    pub(super) const fn rows(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}
