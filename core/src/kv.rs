//! Views of keys and values: packed in one buffer, or in two.

use crate::{Host, Layout, RowsMut, RowsRef, Scalar, Space, ViewError, view::inside};
use core::ops::Range;

/// Keys and values to read.
pub struct KvRef<'a, S: Space, T: Scalar> {
    k: RowsRef<'a, S, T>,
    v: RowsRef<'a, S, T>,
}

/// The layouts.
impl<S: Space, T: Scalar> core::fmt::Debug for KvRef<'_, S, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        layouts(f, "KvRef", self.k.layout(), self.v.layout())
    }
}

impl<S: Space, T: Scalar> Clone for KvRef<'_, S, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Space, T: Scalar> Copy for KvRef<'_, S, T> {}

impl<'a, S: Space, T: Scalar> KvRef<'a, S, T> {
    /// `[rows, 2 * kv_heads, head_dim]`: the heads of the keys, then those of the values
    /// (Fast-LLM's layout).
    ///
    /// # Errors
    /// [`ViewError::OddPackedHeads`].
    pub fn packed(rows: RowsRef<'a, S, T>) -> Result<Self, ViewError> {
        let (k, v) = rows.layout().halves()?;
        Ok(Self { k: RowsRef::checked(rows.memory(), k), v: RowsRef::checked(rows.memory(), v) })
    }

    /// Two views of the same shape; strides may differ.
    ///
    /// # Errors
    /// [`ViewError::KvMismatch`].
    pub fn separate(k: RowsRef<'a, S, T>, v: RowsRef<'a, S, T>) -> Result<Self, ViewError> {
        check_same_shape(&k.layout(), &v.layout())?;
        Ok(Self { k, v })
    }

    /// The keys.
    pub fn k(&self) -> RowsRef<'a, S, T> {
        self.k
    }

    /// The values.
    pub fn v(&self) -> RowsRef<'a, S, T> {
        self.v
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// [`ViewError::Rows`].
    pub fn narrow(self, rows: Range<usize>) -> Result<Self, ViewError> {
        Ok(Self { k: self.k.narrow(rows.clone())?, v: self.v.narrow(rows)? })
    }

    /// The same view for a shorter time.
    pub fn shorten<'s>(self) -> KvRef<'s, S, T>
    where
        'a: 's,
    {
        KvRef { k: self.k.shorten(), v: self.v.shorten() }
    }
}

/// Keys and values, or their gradients, to write.
pub struct KvMut<'a, S: Space, T: Scalar> {
    parts: KvParts<'a, S, T>,
}

/// The layouts.
impl<S: Space, T: Scalar> core::fmt::Debug for KvMut<'_, S, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        layouts(f, "KvMut", self.k_layout(), self.v_layout())
    }
}

/// Writes where keys and values lie: of the memory, a space need not know more.
fn layouts(f: &mut core::fmt::Formatter<'_>, name: &str, k: Layout, v: Layout) -> core::fmt::Result {
    f.debug_struct(name).field("k", &k).field("v", &v).finish_non_exhaustive()
}

/// What a [`KvMut`] is made of, for devices.
pub enum KvParts<'a, S: Space, T: Scalar> {
    /// One memory; the layouts' offsets both count in it, and their elements are distinct.
    Packed {
        /// Keys and values.
        memory: S::Mut<'a, T>,
        /// Where the keys lie.
        k: Layout,
        /// Where the values lie.
        v: Layout,
    },
    /// Two memories.
    Separate {
        /// The keys.
        k: RowsMut<'a, S, T>,
        /// The values.
        v: RowsMut<'a, S, T>,
    },
}

impl<'a, S: Space, T: Scalar> KvMut<'a, S, T> {
    /// `[rows, 2 * kv_heads, head_dim]`: the heads of the keys, then those of the values
    /// (Fast-LLM's layout).
    ///
    /// # Errors
    /// [`ViewError::OddPackedHeads`].
    pub fn packed(rows: RowsMut<'a, S, T>) -> Result<Self, ViewError> {
        let (k, v) = rows.layout().halves()?;
        Ok(Self { parts: KvParts::Packed { memory: rows.into_memory(), k, v } })
    }

    /// Two views of the same shape; strides may differ.
    ///
    /// # Errors
    /// [`ViewError::KvMismatch`].
    pub fn separate(k: RowsMut<'a, S, T>, v: RowsMut<'a, S, T>) -> Result<Self, ViewError> {
        check_same_shape(&k.layout(), &v.layout())?;
        Ok(Self { parts: KvParts::Separate { k, v } })
    }

    /// Where the keys lie.
    pub fn k_layout(&self) -> Layout {
        match &self.parts {
            KvParts::Packed { k, .. } => *k,
            KvParts::Separate { k, .. } => k.layout(),
        }
    }

    /// Where the values lie.
    pub fn v_layout(&self) -> Layout {
        match &self.parts {
            KvParts::Packed { v, .. } => *v,
            KvParts::Separate { v, .. } => v.layout(),
        }
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// [`ViewError::Rows`].
    pub fn narrow(self, rows: Range<usize>) -> Result<Self, ViewError> {
        let parts = match self.parts {
            KvParts::Packed { memory, k, v } => {
                KvParts::Packed { memory, k: k.narrow(rows.clone())?, v: v.narrow(rows)? }
            }
            KvParts::Separate { k, v } => {
                KvParts::Separate { k: k.narrow(rows.clone())?, v: v.narrow(rows)? }
            }
        };
        Ok(Self { parts })
    }

    /// Parts the view before row `row`. Both parts may be written, by different work: the rows of sealed
    /// steps and those that are open, say.
    ///
    /// # Errors
    /// As [`RowsMut::split`].
    pub fn split(self, row: usize) -> Result<(Self, Self), ViewError> {
        match self.parts {
            KvParts::Packed { memory, k, v } => {
                let (at, [k_before, v_before], [k_behind, v_behind]) = Layout::split([k, v], row)?;
                let (before, behind) = S::split_mut(memory, at);
                let before = KvParts::Packed { memory: before, k: k_before, v: v_before };
                let behind = KvParts::Packed { memory: behind, k: k_behind, v: v_behind };
                Ok((Self { parts: before }, Self { parts: behind }))
            }
            KvParts::Separate { k, v } => {
                let ((k_before, k_behind), (v_before, v_behind)) = (k.split(row)?, v.split(row)?);
                let before = KvParts::Separate { k: k_before, v: v_before };
                let behind = KvParts::Separate { k: k_behind, v: v_behind };
                Ok((Self { parts: before }, Self { parts: behind }))
            }
        }
    }

    /// Lends the view for a while.
    pub fn reborrow(&mut self) -> KvMut<'_, S, T> {
        let parts = match &mut self.parts {
            KvParts::Packed { memory, k, v } => KvParts::Packed { memory: S::reborrow(memory), k: *k, v: *v },
            KvParts::Separate { k, v } => KvParts::Separate { k: k.reborrow(), v: v.reborrow() },
        };
        KvMut { parts }
    }

    /// Lends the view to read for a while.
    pub fn freeze(&self) -> KvRef<'_, S, T> {
        match &self.parts {
            KvParts::Packed { memory, k, v } => {
                let memory = S::freeze(memory);
                KvRef { k: RowsRef::checked(memory, *k), v: RowsRef::checked(memory, *v) }
            }
            KvParts::Separate { k, v } => KvRef { k: k.freeze(), v: v.freeze() },
        }
    }

    /// What the view is made of.
    pub fn into_parts(self) -> KvParts<'a, S, T> {
        self.parts
    }
}

impl<T: Scalar> KvMut<'_, Host, T> {
    /// A key.
    ///
    /// # Panics
    /// Where the row or the head is outside the view.
    pub fn key_mut(&mut self, row: usize, head: usize) -> &mut [T] {
        match &mut self.parts {
            KvParts::Packed { memory, k, .. } => head_mut(memory, k, row, head),
            KvParts::Separate { k, .. } => k.get_mut(row, head),
        }
    }

    /// A value.
    ///
    /// # Panics
    /// Where the row or the head is outside the view.
    pub fn value_mut(&mut self, row: usize, head: usize) -> &mut [T] {
        match &mut self.parts {
            KvParts::Packed { memory, v, .. } => head_mut(memory, v, row, head),
            KvParts::Separate { v, .. } => v.get_mut(row, head),
        }
    }
}

#[track_caller]
fn head_mut<'m, T>(memory: &'m mut [T], layout: &Layout, row: usize, head: usize) -> &'m mut [T] {
    let begin = inside(layout, row, head);
    &mut memory[begin..begin + layout.head_dim()]
}

fn check_same_shape(k: &Layout, v: &Layout) -> Result<(), ViewError> {
    if (k.rows(), k.heads(), k.head_dim()) == (v.rows(), v.heads(), v.head_dim()) {
        return Ok(());
    }
    Err(ViewError::KvMismatch {
        k_rows: k.rows(),
        k_heads: k.heads(),
        k_head_dim: k.head_dim(),
        v_rows: v.rows(),
        v_heads: v.heads(),
        v_head_dim: v.head_dim(),
    })
}
