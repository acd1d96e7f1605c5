//! Rows as the products take them: in the caller's memory, or, where a head_dim is not in whole chunks, in
//! copies that are padded with zeros.

use super::{OPENING, padded};
use crate::kernel::Geometry;
use crate::scratch::Carver;
use crate::simd::MAX_LANES;
use crate::strided::{StridedMut, StridedRef};
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

    /// Rows at some places of a view, copied where they need to be.
    ///
    /// # Safety
    /// The places are inside the view, whose heads have head_dim elements, and are `N` at most; no other
    /// thread writes there.
    #[inline(always)]
    pub(super) unsafe fn read<T: Scalar>(
        &self,
        view: &StridedRef<T>,
        places: impl Iterator<Item = (usize, usize)>,
    ) -> Reading<T, N> {
        let mut read = [ptr::null(); N];
        for (i, (read, (row, head))) in read.iter_mut().zip(places).enumerate() {
            // SAFETY: the caller vouches for the places.
            unsafe {
                let row = view.at(row, head);
                *read = if self.padded == self.head_dim { row } else { self.copy(i, row) };
            }
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

    /// Where rows at some places of a view are to be written: there, or to copies.
    ///
    /// # Safety
    /// As [`read`](Self::read); no other thread touches the rows.
    #[inline(always)]
    pub(super) unsafe fn write<T: Scalar>(
        &self,
        view: &StridedMut<T>,
        places: impl Iterator<Item = (usize, usize)>,
    ) -> Writing<T, N> {
        let mut written = [ptr::null_mut(); N];
        for (i, (written, (row, head))) in written.iter_mut().zip(places).enumerate() {
            // SAFETY: the caller vouches for the places.
            let row = unsafe { view.at(row, head) };
            *written = if self.padded == self.head_dim { row } else { self.place(i) };
        }
        written
    }

    /// Copies what was written to where it belongs.
    ///
    /// # Safety
    /// As [`write`](Self::write), which was asked for the same places.
    #[inline(always)]
    pub(super) unsafe fn flush<T: Scalar>(
        &self,
        view: &StridedMut<T>,
        places: impl Iterator<Item = (usize, usize)>,
    ) {
        if self.padded == self.head_dim {
            return;
        }
        for (i, (row, head)) in places.enumerate() {
            // SAFETY: the caller vouches for the places; a copy has as many elements as a row.
            unsafe { ptr::copy_nonoverlapping(self.place::<T>(i), view.at(row, head), self.head_dim) };
        }
    }
}

/// Rows of a batch, and keys.
pub(super) type StagedRows = Staging<MAX_LANES>;
pub(super) type StagedKeys = Staging<OPENING>;
