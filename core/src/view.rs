//! Views of rows in memory that somebody else owns, checked when they are made.

use crate::{Host, Layout, Scalar, Space, ViewError};
use core::ops::Range;

/// A `[rows, heads, head_dim]` view to read. Strides may be 0 or overlap.
///
/// ```
/// use microseq_core::{Host, Layout, RowsRef};
/// let memory = [0.0f32; 3 * 2 * 8];
/// let q = RowsRef::<Host, f32>::new(&memory, Layout::dense(3, 2, 8))?;
/// assert_eq!(q.narrow(1..3)?.layout().rows(), 2);
/// # Ok::<(), microseq_core::ViewError>(())
/// ```
pub struct RowsRef<'a, S: Space, T: Scalar> {
    memory: S::Ref<'a, T>,
    layout: Layout,
}

/// The layout: of the memory, a space need not know more than where it is.
impl<S: Space, T: Scalar> core::fmt::Debug for RowsRef<'_, S, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RowsRef").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl<S: Space, T: Scalar> Clone for RowsRef<'_, S, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Space, T: Scalar> Copy for RowsRef<'_, S, T> {}

impl<'a, S: Space, T: Scalar> RowsRef<'a, S, T> {
    /// Lays a view over memory.
    ///
    /// # Errors
    /// [`ViewError::ZeroHeads`], [`ViewError::ZeroHeadDim`], [`ViewError::Overflow`],
    /// [`ViewError::OutOfBounds`].
    pub fn new(memory: S::Ref<'a, T>, layout: Layout) -> Result<Self, ViewError> {
        layout.check(S::len(&memory))?;
        Ok(Self { memory, layout })
    }

    /// Shape and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory that the layout's offsets count in.
    pub fn memory(&self) -> S::Ref<'a, T> {
        self.memory
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// [`ViewError::Rows`].
    pub fn narrow(self, rows: Range<usize>) -> Result<Self, ViewError> {
        Ok(Self { memory: self.memory, layout: self.layout.narrow(rows)? })
    }

    /// The same view for a shorter time.
    pub fn shorten<'s>(self) -> RowsRef<'s, S, T>
    where
        'a: 's,
    {
        RowsRef { memory: S::shorten(self.memory), layout: self.layout }
    }

    /// For parts of a view that was checked.
    pub(crate) fn checked(memory: S::Ref<'a, T>, layout: Layout) -> Self {
        Self { memory, layout }
    }
}

impl<'a, T: Scalar> RowsRef<'a, Host, T> {
    /// As [`RowsRef::new`], over a slice or what derefs to one.
    ///
    /// # Errors
    /// As [`RowsRef::new`].
    pub fn of_slice(memory: &'a [T], layout: Layout) -> Result<Self, ViewError> {
        Self::new(memory, layout)
    }

    /// The elements of a head of a row.
    ///
    /// # Panics
    /// Where the row or the head is outside the view.
    pub fn get(&self, row: usize, head: usize) -> &'a [T] {
        let begin = inside(&self.layout, row, head);
        &self.memory[begin..begin + self.layout.head_dim()]
    }
}

/// A `[rows, heads, head_dim]` view to write. No two of its elements share a place.
///
/// On the host it borrows its slice mutably, so of views of one slice that interleave, as `dk` and `dv` of each
/// K/V head side by side would, only one is there at a time; keys and values that are halves of each row are one
/// view ([`KvMut::packed`](crate::KvMut::packed)).
pub struct RowsMut<'a, S: Space, T: Scalar> {
    memory: S::Mut<'a, T>,
    layout: Layout,
}

/// The layout: of the memory, a space need not know more than where it is.
impl<S: Space, T: Scalar> core::fmt::Debug for RowsMut<'_, S, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RowsMut").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl<'a, S: Space, T: Scalar> RowsMut<'a, S, T> {
    /// Lays a view over memory.
    ///
    /// # Errors
    /// As [`RowsRef::new`], and [`ViewError::Overlap`].
    pub fn new(memory: S::Mut<'a, T>, layout: Layout) -> Result<Self, ViewError> {
        layout.check(S::len_mut(&memory))?;
        layout.check_distinct()?;
        Ok(Self { memory, layout })
    }

    /// Shape and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory that the layout's offsets count in.
    pub fn into_memory(self) -> S::Mut<'a, T> {
        self.memory
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// [`ViewError::Rows`].
    pub fn narrow(self, rows: Range<usize>) -> Result<Self, ViewError> {
        Ok(Self { layout: self.layout.narrow(rows)?, memory: self.memory })
    }

    /// Parts the view before row `row`. Both parts may be written, by different work.
    ///
    /// # Errors
    /// [`ViewError::Rows`]; [`ViewError::Interleaved`] where the two parts overlap in memory: heads of
    /// rows instead of rows of heads.
    pub fn split(self, row: usize) -> Result<(Self, Self), ViewError> {
        let (at, [before], [behind]) = Layout::split([self.layout], row)?;
        let (first, second) = S::split_mut(self.memory, at);
        Ok((Self { memory: first, layout: before }, Self { memory: second, layout: behind }))
    }

    /// Lends the view for a while.
    pub fn reborrow(&mut self) -> RowsMut<'_, S, T> {
        RowsMut { memory: S::reborrow(&mut self.memory), layout: self.layout }
    }

    /// Lends the view to read for a while.
    pub fn freeze(&self) -> RowsRef<'_, S, T> {
        RowsRef { memory: S::freeze(&self.memory), layout: self.layout }
    }
}

impl<'a, T: Scalar> RowsMut<'a, Host, T> {
    /// As [`RowsMut::new`], over a slice or what derefs to one.
    ///
    /// # Errors
    /// As [`RowsMut::new`].
    pub fn of_slice(memory: &'a mut [T], layout: Layout) -> Result<Self, ViewError> {
        Self::new(memory, layout)
    }

    /// The elements of a head of a row.
    ///
    /// # Panics
    /// Where the row or the head is outside the view.
    pub fn get_mut(&mut self, row: usize, head: usize) -> &mut [T] {
        let begin = inside(&self.layout, row, head);
        &mut self.memory[begin..begin + self.layout.head_dim()]
    }
}

/// Where a head of a row begins.
#[track_caller]
pub(crate) fn inside(layout: &Layout, row: usize, head: usize) -> usize {
    assert!(
        row < layout.rows() && head < layout.heads(),
        "row {row}, head {head} of a view of {} rows, {} heads",
        layout.rows(),
        layout.heads()
    );
    layout.at(row, head)
}
