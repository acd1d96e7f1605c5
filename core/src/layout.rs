//! Where the elements of a `[rows, heads, head_dim]` view lie in flat memory.

use core::ops::Range;
use thiserror::Error;

/// Why a view cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A view without heads.
    #[error("the view has 0 heads, expected at least 1")]
    ZeroHeads,
    /// A view without elements in a head.
    #[error("the view has head_dim 0, expected at least 1")]
    ZeroHeadDim,
    /// The last element's offset does not fit a `usize`.
    #[error(
        "the last element's offset overflows: offset {offset}, {rows} rows of stride {row_stride}, {heads} heads of stride {head_stride}"
    )]
    Overflow {
        /// Offset of the first element.
        offset: usize,
        /// Rows.
        rows: usize,
        /// Elements from a row to the next.
        row_stride: usize,
        /// Heads.
        heads: usize,
        /// Elements from a head to the next.
        head_stride: usize,
    },
    /// The memory ends before the last element.
    #[error("the view reaches {needed} elements, the memory holds {given}")]
    OutOfBounds {
        /// Elements up to and with the last.
        needed: usize,
        /// Elements of the memory.
        given: usize,
    },
    /// Two elements of a view to write to share a place, or its rows and heads interleave so that they might.
    #[error(
        "elements of the view overlap: {rows} rows of stride {row_stride}, {heads} heads of stride {head_stride}, head_dim {head_dim}"
    )]
    Overlap {
        /// Rows.
        rows: usize,
        /// Elements from a row to the next.
        row_stride: usize,
        /// Heads.
        heads: usize,
        /// Elements from a head to the next.
        head_stride: usize,
        /// Elements of a head.
        head_dim: usize,
    },
    /// Rows outside the view.
    #[error("rows {begin}..{end} are outside a view of {rows}")]
    Rows {
        /// First row asked for.
        begin: usize,
        /// One behind the last row asked for.
        end: usize,
        /// Rows of the view.
        rows: usize,
    },
    /// Rows that cannot be parted in memory: heads of rows lie behind those of later rows.
    #[error(
        "the view cannot be parted before row {row}: its heads, of stride {head_stride}, reach behind the next of its rows, of stride {row_stride}"
    )]
    Interleaved {
        /// Where it was to be parted.
        row: usize,
        /// Elements from a row to the next.
        row_stride: usize,
        /// Elements from a head to the next.
        head_stride: usize,
    },
    /// Packed K/V needs as many value heads as key heads.
    #[error("packed K/V has {heads} heads, expected an even number: keys, then values")]
    OddPackedHeads {
        /// Heads of the packed view.
        heads: usize,
    },
    /// Separate K and V of different shapes.
    #[error(
        "keys are [{k_rows}, {k_heads}, {k_head_dim}], values [{v_rows}, {v_heads}, {v_head_dim}]: expected the same"
    )]
    KvMismatch {
        /// Rows of the keys.
        k_rows: usize,
        /// Heads of the keys.
        k_heads: usize,
        /// head_dim of the keys.
        k_head_dim: usize,
        /// Rows of the values.
        v_rows: usize,
        /// Heads of the values.
        v_heads: usize,
        /// head_dim of the values.
        v_head_dim: usize,
    },
}

/// The shape and strides of a view, in elements. The elements of a head are adjacent.
///
/// A layout says nothing about the memory; [`RowsRef::new`](crate::RowsRef::new) and
/// [`RowsMut::new`](crate::RowsMut::new) check the two against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    offset: usize,
    rows: usize,
    heads: usize,
    head_dim: usize,
    row_stride: usize,
    head_stride: usize,
}

impl Layout {
    /// `[rows, heads, head_dim]`, dense. Strides saturate where the shape is absurd; no memory
    /// passes their check then.
    pub const fn dense(rows: usize, heads: usize, head_dim: usize) -> Self {
        let row_stride = heads.saturating_mul(head_dim);
        Self { offset: 0, rows, heads, head_dim, row_stride, head_stride: head_dim }
    }

    /// `[heads, rows]`, dense: the layout of `lse`. Its head_dim is 1.
    pub const fn lse(heads: usize, rows: usize) -> Self {
        Self { offset: 0, rows, heads, head_dim: 1, row_stride: 1, head_stride: rows }
    }

    /// Replaces the stride from a row to the next.
    #[must_use]
    pub const fn with_row_stride(mut self, elements: usize) -> Self {
        self.row_stride = elements;
        self
    }

    /// Replaces the stride from a head to the next.
    #[must_use]
    pub const fn with_head_stride(mut self, elements: usize) -> Self {
        self.head_stride = elements;
        self
    }

    /// Replaces where in the memory the first element lies.
    #[must_use]
    pub const fn with_offset(mut self, elements: usize) -> Self {
        self.offset = elements;
        self
    }

    /// Where in the memory the first element lies.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Heads.
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// Elements of a head.
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Elements from a row to the next.
    pub const fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Elements from a head to the next.
    pub const fn head_stride(&self) -> usize {
        self.head_stride
    }

    /// Where in the memory a head of a row begins, in elements. In a checked view this cannot
    /// overflow while `row` and `head` are inside it.
    #[inline]
    pub const fn at(&self, row: usize, head: usize) -> usize {
        self.offset + row * self.row_stride + head * self.head_stride
    }

    /// Checks the view against memory of `len` elements.
    ///
    /// # Errors
    /// [`ViewError::ZeroHeads`], [`ViewError::ZeroHeadDim`], [`ViewError::Overflow`],
    /// [`ViewError::OutOfBounds`].
    pub const fn check(&self, len: usize) -> Result<(), ViewError> {
        if self.heads == 0 {
            return Err(ViewError::ZeroHeads);
        }
        if self.head_dim == 0 {
            return Err(ViewError::ZeroHeadDim);
        }
        let Some(needed) = self.reach() else {
            return Err(self.overflow());
        };
        if needed > len {
            return Err(ViewError::OutOfBounds { needed, given: len });
        }
        Ok(())
    }

    /// Checks that no two elements share a place: rows of heads, or heads of rows, one behind the
    /// other. Layouts that interleave otherwise are refused, even where all places are distinct. Call after
    /// [`check`](Layout::check).
    ///
    /// # Errors
    /// [`ViewError::Overlap`].
    pub const fn check_distinct(&self) -> Result<(), ViewError> {
        let rows_of_heads = nests(self.head_dim, self.heads, self.head_stride, self.rows, self.row_stride);
        let heads_of_rows = nests(self.head_dim, self.rows, self.row_stride, self.heads, self.head_stride);
        if rows_of_heads || heads_of_rows {
            return Ok(());
        }
        Err(ViewError::Overlap {
            rows: self.rows,
            row_stride: self.row_stride,
            heads: self.heads,
            head_stride: self.head_stride,
            head_dim: self.head_dim,
        })
    }

    const fn overflow(&self) -> ViewError {
        ViewError::Overflow {
            offset: self.offset,
            rows: self.rows,
            row_stride: self.row_stride,
            heads: self.heads,
            head_stride: self.head_stride,
        }
    }

    /// One behind the last element's place; where the view is empty, its offset.
    const fn reach(&self) -> Option<usize> {
        if self.rows == 0 {
            return Some(self.offset);
        }
        let Some(row) = (self.rows - 1).checked_mul(self.row_stride) else { return None };
        let Some(head) = (self.heads - 1).checked_mul(self.head_stride) else { return None };
        let Some(last) = row.checked_add(head) else { return None };
        let Some(begin) = self.offset.checked_add(last) else { return None };
        begin.checked_add(self.head_dim)
    }

    /// The layout of some of the rows.
    ///
    /// # Errors
    /// [`ViewError::Rows`]; [`ViewError::Overflow`] for a layout that no memory was checked against.
    pub const fn narrow(mut self, rows: Range<usize>) -> Result<Self, ViewError> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(ViewError::Rows { begin: rows.start, end: rows.end, rows: self.rows });
        }
        // An empty part may begin behind the last row, where the product could pass the memory.
        if rows.start < rows.end {
            let Some(skipped) = rows.start.checked_mul(self.row_stride) else { return Err(self.overflow()) };
            let Some(offset) = self.offset.checked_add(skipped) else { return Err(self.overflow()) };
            self.offset = offset;
        }
        self.rows = rows.end - rows.start;
        Ok(self)
    }

    /// Parts layouts of one memory and one number of rows before row `row`: the element before which the
    /// memory is to be parted, and the layouts of the two parts in theirs.
    ///
    /// # Errors
    /// [`ViewError::Rows`], [`ViewError::Interleaved`].
    pub(crate) fn split<const N: usize>(
        layouts: [Self; N],
        row: usize,
    ) -> Result<(usize, [Self; N], [Self; N]), ViewError> {
        let (mut before, mut behind) = (layouts, layouts);
        let (mut end, mut begin) = (0, usize::MAX);
        for (n, layout) in layouts.into_iter().enumerate() {
            before[n] = layout.narrow(0..row)?;
            behind[n] = layout.narrow(row..layout.rows)?;
            if before[n].rows > 0 {
                end = end.max(before[n].reach().ok_or(layout.overflow())?);
            }
            if behind[n].rows > 0 {
                begin = begin.min(behind[n].offset);
            }
        }
        let at = if begin == usize::MAX { end } else { begin };
        if end > at {
            let Self { row_stride, head_stride, .. } = layouts[0];
            return Err(ViewError::Interleaved { row, row_stride, head_stride });
        }
        // Without rows a layout may say anything.
        before.iter_mut().filter(|part| part.rows == 0).for_each(|part| part.offset = 0);
        behind.iter_mut().for_each(|part| part.offset = part.offset.saturating_sub(at));
        behind.iter_mut().filter(|part| part.rows == 0).for_each(|part| part.offset = 0);
        Ok((at, before, behind))
    }

    /// The first and the second half of the heads: keys and values of a packed view.
    pub(crate) const fn halves(&self) -> Result<(Self, Self), ViewError> {
        if !self.heads.is_multiple_of(2) {
            return Err(ViewError::OddPackedHeads { heads: self.heads });
        }
        let mut keys = *self;
        keys.heads = self.heads / 2;
        let mut values = keys;
        if self.rows > 0 {
            values.offset += keys.heads * self.head_stride;
        }
        Ok((keys, values))
    }
}

/// Whether `outer` runs of `inner` blocks of `block` elements lie one behind the other.
const fn nests(block: usize, inner: usize, inner_stride: usize, outer: usize, outer_stride: usize) -> bool {
    if inner == 0 || outer == 0 {
        return true;
    }
    if inner > 1 && inner_stride < block {
        return false;
    }
    let run = (inner - 1).saturating_mul(inner_stride).saturating_add(block);
    outer <= 1 || outer_stride >= run
}
