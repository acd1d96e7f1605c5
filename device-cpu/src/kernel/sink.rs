//! Where sums over keys go: to be summed on, or to the caller at once.

use super::Arithmetic;
use super::pack;
use crate::simd::Simd;
use core::marker::PhantomData;
use microseq_core::Element;

/// Rows that take vectors of sums.
pub(crate) trait Sink<S: Simd>: Copy {
    /// Whether it wants the sums of rows that see no further key too.
    const LAST: bool;

    /// Where element `column` of a row lies, and elements from a row to the next, if rows lie in memory as
    /// they are put.
    ///
    /// # Safety
    /// Row and column are inside the sink.
    unsafe fn rows_in_memory(&self, row: usize, column: usize) -> Option<(*mut f32, usize)>;

    /// Puts a vector at element `column` of a row, over what was there.
    ///
    /// # Safety
    /// As [`Simd`]; row and column are inside the sink.
    unsafe fn put(&self, row: usize, column: usize, v: S::V);
}

/// Rows of sums, `[row][width]`.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) rows: *mut f32,
    pub(crate) width: usize,
}

impl<S: Simd> Sink<S> for Sums {
    const LAST: bool = false;

    #[inline(always)]
    unsafe fn rows_in_memory(&self, row: usize, column: usize) -> Option<(*mut f32, usize)> {
        // SAFETY: the caller vouches for the place.
        unsafe { Some((self.rows.add(row * self.width + column), self.width)) }
    }

    #[inline(always)]
    unsafe fn put(&self, row: usize, column: usize, v: S::V) {
        // SAFETY: the caller vouches for the place.
        unsafe { S::store(self.rows.add(row * self.width + column), v) }
    }
}

/// The caller's rows, each with a factor.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<'a, A, E> {
    rows: &'a [*mut E],
    factors: &'a [f32],
    arithmetic: PhantomData<A>,
}

impl<'a, A, E> Rounded<'a, A, E> {
    /// As many factors as rows.
    pub(crate) fn new(rows: &'a [*mut E], factors: &'a [f32]) -> Self {
        debug_assert_eq!(rows.len(), factors.len());
        Self { rows, factors, arithmetic: PhantomData }
    }
}

impl<S: Simd, A: Arithmetic<S>, E: Element> Sink<S> for Rounded<'_, A, E> {
    const LAST: bool = true;

    #[inline(always)]
    unsafe fn rows_in_memory(&self, _: usize, _: usize) -> Option<(*mut f32, usize)> {
        None
    }

    #[inline(always)]
    unsafe fn put(&self, row: usize, column: usize, v: S::V) {
        // SAFETY: the caller vouches for the place.
        unsafe {
            let (row, factor) = (*self.rows.get_unchecked(row), *self.factors.get_unchecked(row));
            pack::round::<S, A, E>(v, factor, row.add(column));
        }
    }
}
