//! Rows as the products take them: in the caller's memory, or, where a head_dim is not in whole chunks, in
//! copies that are padded with zeros.

use super::{OPENING, padded};
use crate::kernel::Geometry;
use crate::scratch::Carver;
use crate::simd::MAX_LANES;
use core::mem::size_of;
use core::ptr;
use microseq_core::Scalar;

/// The first element of each of some rows.
pub(super) type Reading<T, const N: usize> = [*const T; N];
pub(super) type Writing<T, const N: usize> = [*mut T; N];

/// Room for copies of up to `N` rows.
#[derive(Clone, Copy)]
pub(super) struct Staging<const N: usize> {
    memory: *mut f32,
    head_dim: usize,
    /// Elements of a copy; as many as head_dim where none is needed.
    padded: usize,
}

impl<const N: usize> Staging<N> {
    pub(super) fn carve(memory: &mut Carver, geometry: &Geometry, head_dim: usize) -> Self {
        let padded = padded(head_dim, geometry.per_word);
        // Of f32: as large as the largest element.
        let elements = if padded == head_dim { 0 } else { N * padded };
        Self { memory: memory.take(elements), head_dim, padded }
    }

    /// Elements of a row as the products take it.
    #[inline(always)]
    pub(super) fn width(&self) -> usize {
        self.padded
    }

    /// Copies rows where they need to be.
    ///
    /// # Safety
    /// The rows have head_dim elements each, and are `N` at most.
    #[inline(always)]
    pub(super) unsafe fn read<T: Scalar>(&self, rows: impl Iterator<Item = *const T>) -> Reading<T, N> {
        let mut read = [ptr::null(); N];
        for (i, (read, row)) in read.iter_mut().zip(rows).enumerate() {
            // SAFETY: the caller vouches for the row.
            *read = if self.padded == self.head_dim { row } else { unsafe { self.copy(i, row) } };
        }
        read
    }

    /// A padded copy of a row, as the one of number `i`.
    ///
    /// # Safety
    /// The row has head_dim elements; `i` is below `N`.
    unsafe fn copy<T: Scalar>(&self, i: usize, row: *const T) -> *const T {
        const { assert!(size_of::<T>() <= size_of::<f32>()) };
        let to = self.place::<T>(i);
        // SAFETY: the memory holds `N` rows of `padded` f32, and elements are no larger.
        unsafe {
            ptr::copy_nonoverlapping(row, to, self.head_dim);
            for i in self.head_dim..self.padded {
                *to.add(i) = T::default();
            }
        }
        to
    }

    /// The copy of number `i`.
    #[inline(always)]
    fn place<T: Scalar>(&self, i: usize) -> *mut T {
        self.memory.cast::<T>().wrapping_add(i * self.padded)
    }

    /// Where rows are to be written: they themselves, or copies.
    #[inline(always)]
    pub(super) fn write<T: Scalar>(&self, rows: impl Iterator<Item = *mut T>) -> Writing<T, N> {
        let mut written = [ptr::null_mut(); N];
        for (i, (written, row)) in written.iter_mut().zip(rows).enumerate() {
            *written = if self.padded == self.head_dim { row } else { self.place(i) };
        }
        written
    }

    /// Copies what was written to where it belongs.
    ///
    /// # Safety
    /// As [`read`](Self::read); the rows are those that [`write`](Self::write) was asked for.
    #[inline(always)]
    pub(super) unsafe fn flush<T: Scalar>(&self, rows: impl Iterator<Item = *mut T>) {
        if self.padded == self.head_dim {
            return;
        }
        for (i, row) in rows.enumerate() {
            // SAFETY: the caller vouches for the row; the copy has as many elements.
            unsafe { ptr::copy_nonoverlapping(self.place::<T>(i), row, self.head_dim) };
        }
    }
}

/// Rows of a batch, and keys.
pub(super) type StagedRows = Staging<MAX_LANES>;
pub(super) type StagedKeys = Staging<OPENING>;
