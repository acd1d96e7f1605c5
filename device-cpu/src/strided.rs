//! Checked views as raw pointers with strides: what kernels on several threads read and write.

use crate::kernel::{Places, Span};
use microseq_core::{Host, KvMut, KvParts, KvRef, Layout, RowsMut, RowsRef, Scalar};

/// `[rows, heads, head_dim]` to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StridedRef<T> {
    base: *const T,
    row_stride: usize,
    head_stride: usize,
}

// SAFETY: it is only read through, by whoever keeps the contract of `at`, while the `RowsRef` that
// it was made of is borrowed by the running call; `Scalar` types are `Sync`.
unsafe impl<T: Scalar> Send for StridedRef<T> {}
// SAFETY: as above.
unsafe impl<T: Scalar> Sync for StridedRef<T> {}

impl<T: Scalar> StridedRef<T> {
    pub(crate) fn new(view: RowsRef<'_, Host, T>) -> Self {
        let layout = view.layout();
        // An empty view's offset may lie behind its memory; its pointer is never used.
        let base = view.memory().as_ptr().wrapping_add(layout.offset());
        Self { base, row_stride: layout.row_stride(), head_stride: layout.head_stride() }
    }

    /// Both halves of a K/V view.
    pub(crate) fn kv(view: KvRef<'_, Host, T>) -> (Self, Self) {
        (Self::new(view.k()), Self::new(view.v()))
    }

    /// Elements from a row to the next.
    #[inline(always)]
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The first element of a head of a row.
    ///
    /// # Safety
    /// `row` and `head` are inside the view that this was made of, which is still borrowed.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, row: usize, head: usize) -> *const T {
        // SAFETY: the view was checked: its elements, this one among them, are in one allocation.
        unsafe { self.base.add(row * self.row_stride + head * self.head_stride) }
    }

    /// Rows of a head_dim at some places, to be asked for. Any places are fine.
    #[inline(always)]
    pub(crate) fn span(&self, places: Places, rows: usize, head_dim: usize) -> Span {
        Span {
            base: self.base.cast(),
            // Of a view of one row any stride is fine.
            row_stride: self.row_stride.wrapping_mul(size_of::<T>()),
            head_stride: self.head_stride.wrapping_mul(size_of::<T>()),
            bytes: head_dim * size_of::<T>(),
            places,
            rows,
        }
    }
}

/// `[rows, heads, head_dim]` to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StridedMut<T> {
    base: *mut T,
    row_stride: usize,
    head_stride: usize,
}

// SAFETY: whoever writes through it keeps the contract of `at`: no element is written by one thread
// while another touches it; `Scalar` types are `Send`.
unsafe impl<T: Scalar> Send for StridedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Scalar> Sync for StridedMut<T> {}

impl<T: Scalar> StridedMut<T> {
    pub(crate) fn new(view: RowsMut<'_, Host, T>) -> Self {
        let layout = view.layout();
        Self::of(view.into_memory().as_mut_ptr(), &layout)
    }

    /// Both halves of a K/V view. In the packed form both pointers come from one borrow.
    pub(crate) fn kv(view: KvMut<'_, Host, T>) -> (Self, Self) {
        match view.into_parts() {
            KvParts::Packed { memory, k, v } => {
                let base = memory.as_mut_ptr();
                (Self::of(base, &k), Self::of(base, &v))
            }
            KvParts::Separate { k, v } => (Self::new(k), Self::new(v)),
        }
    }

    fn of(memory: *mut T, layout: &Layout) -> Self {
        let base = memory.wrapping_add(layout.offset());
        Self { base, row_stride: layout.row_stride(), head_stride: layout.head_stride() }
    }

    /// The first element of a head of a row.
    ///
    /// # Safety
    /// `row` and `head` are inside the view that this was made of, which is still borrowed; while
    /// the pointer is used to write, no other thread touches that head of that row.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, row: usize, head: usize) -> *mut T {
        // SAFETY: the view was checked: its elements, this one among them, are in one allocation.
        unsafe { self.base.add(row * self.row_stride + head * self.head_stride) }
    }

    /// As [`StridedRef::span`].
    #[inline(always)]
    pub(crate) fn span(&self, places: Places, rows: usize, head_dim: usize) -> Span {
        self.reading().span(places, rows, head_dim)
    }

    /// The same, to read: `at` is for whoever may touch what it is at.
    #[inline(always)]
    pub(crate) fn reading(&self) -> StridedRef<T> {
        let Self { base, row_stride, head_stride } = *self;
        StridedRef { base: base.cast_const(), row_stride, head_stride }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_one_row_may_have_any_stride() {
        let memory = [0.0f32; 8];
        let layout = Layout::dense(1, 2, 4).with_row_stride(usize::MAX);
        let view = StridedRef::new(RowsRef::of_slice(&memory, layout).unwrap());
        let span = view.span(Places::down(0, 1), 1, 4);
        assert_eq!((span.base, span.rows, span.bytes), (memory.as_ptr().cast(), 1, 16));
    }
}
