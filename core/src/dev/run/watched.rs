//! Memory that a call reads or writes, and what it held before.

use super::Placed;
use super::call::Manner;
use crate::dev::Harness;
use crate::dev::harness::SpaceOf;
use crate::dev::oracle;
use crate::dev::tensor::Tensor;
use crate::{Element, KvMut, KvRef, Layout, RowsMut, RowsRef, Shape, ViewError};
use std::vec::Vec;

type ViewResult<T> = core::result::Result<T, ViewError>;

/// Memory that a call reads or writes, and what it held before.
pub(crate) struct Watched<H: Harness, T: Element> {
    placed: Placed<H, T>,
    before: Tensor<T>,
}

impl<H: Harness, T: Element> Watched<H, T> {
    pub(crate) fn new(harness: &H, before: Tensor<T>) -> Self {
        Self { placed: Placed::new(harness, before.layout, &before.memory), before }
    }

    pub(crate) fn view(&self, harness: &H) -> ViewResult<RowsRef<'_, SpaceOf<H>, T>> {
        self.placed.rows(harness)
    }

    pub(crate) fn view_mut(&mut self, harness: &H) -> ViewResult<RowsMut<'_, SpaceOf<H>, T>> {
        self.placed.rows_mut(harness)
    }

    /// The memory as it is now.
    pub(crate) fn now(&self, harness: &H) -> Tensor<T> {
        Tensor { layout: self.before.layout, memory: harness.download(&self.placed.buffer) }
    }

    /// The dense elements.
    ///
    /// # Panics
    /// Where a place outside the rows changed.
    pub(crate) fn take(&self, harness: &H, name: &str) -> Vec<T> {
        let now = self.now(harness);
        if let Some(place) = now.first_change_outside(&self.before) {
            panic!("{name}: element {place} of the memory is outside the view {:?}, yet changed", now.layout);
        }
        now.collect()
    }

    /// # Panics
    /// Where any place changed.
    pub(crate) fn assert_unchanged(&self, harness: &H, name: &str) {
        if let Some(place) = self.now(harness).first_change(&self.before) {
            panic!("{name}: element {place} of the memory changed");
        }
    }
}

impl<H: Harness> Watched<H, f32> {
    /// The dense elements of an lse, `[heads, rows]`.
    pub(crate) fn take_lse(&self, harness: &H) -> Vec<f32> {
        transpose(&self.take(harness, "lse"), self.before.layout.heads())
    }
}

/// `[rows, heads]` to `[heads, rows]`.
fn transpose(dense: &[f32], heads: usize) -> Vec<f32> {
    (0..heads).flat_map(|head| dense.iter().skip(head).step_by(heads).copied()).collect()
}

/// Keys and values on the host, or their gradients.
pub(crate) enum KvTensor<T> {
    Packed(Tensor<T>),
    Separate(Tensor<T>, Tensor<T>),
}

impl<T: Element> KvTensor<T> {
    pub(crate) fn new(shape: &Shape, manner: Manner, k: &[T], v: &[T], gap: T) -> Self {
        let (rows, heads, head_dim) = (shape.k_rows, shape.kv_heads, shape.head_dim);
        let layout = manner.arrangement.layout(rows, heads, head_dim);
        if manner.packed {
            let layout = manner.arrangement.layout(rows, 2 * heads, head_dim);
            return Self::Packed(Tensor::scatter(layout, &oracle::pack(k, v, heads, head_dim), gap));
        }
        // Strides of the values that differ from those of the keys.
        let v_layout = layout.with_offset(layout.offset() + 4);
        let v_layout =
            v_layout.with_row_stride(v_layout.row_stride() + if rows_lead(&v_layout) { 6 } else { 0 });
        Self::Separate(Tensor::scatter(layout, k, gap), Tensor::scatter(v_layout, v, gap))
    }
}

/// Whether a row's heads lie together, so that rows may move apart.
fn rows_lead(layout: &Layout) -> bool {
    layout.row_stride() >= layout.heads() * layout.head_stride()
}

/// Keys and values that a call reads or writes, or their gradients.
pub(crate) enum WatchedKv<H: Harness, T: Element> {
    Packed(Watched<H, T>),
    Separate(Watched<H, T>, Watched<H, T>),
}

impl<H: Harness, T: Element> WatchedKv<H, T> {
    pub(crate) fn new(harness: &H, before: KvTensor<T>) -> Self {
        match before {
            KvTensor::Packed(kv) => Self::Packed(Watched::new(harness, kv)),
            KvTensor::Separate(k, v) => Self::Separate(Watched::new(harness, k), Watched::new(harness, v)),
        }
    }

    pub(crate) fn view(&self, harness: &H) -> ViewResult<KvRef<'_, SpaceOf<H>, T>> {
        match self {
            Self::Packed(kv) => KvRef::packed(kv.view(harness)?),
            Self::Separate(k, v) => KvRef::separate(k.view(harness)?, v.view(harness)?),
        }
    }

    pub(crate) fn view_mut(&mut self, harness: &H) -> ViewResult<KvMut<'_, SpaceOf<H>, T>> {
        match self {
            Self::Packed(kv) => KvMut::packed(kv.view_mut(harness)?),
            Self::Separate(k, v) => KvMut::separate(k.view_mut(harness)?, v.view_mut(harness)?),
        }
    }

    /// The dense keys and values.
    ///
    /// # Panics
    /// Where a place outside the rows changed.
    pub(crate) fn take(&self, harness: &H) -> (Vec<T>, Vec<T>) {
        match self {
            Self::Packed(kv) => {
                let layout = kv.before.layout;
                oracle::unpack(&kv.take(harness, "packed k and v"), layout.heads() / 2, layout.head_dim())
            }
            Self::Separate(k, v) => (k.take(harness, "k"), v.take(harness, "v")),
        }
    }

    /// # Panics
    /// Where any place changed.
    pub(crate) fn assert_unchanged(&self, harness: &H, name: &str) {
        match self {
            Self::Packed(kv) => kv.assert_unchanged(harness, name),
            Self::Separate(k, v) => {
                k.assert_unchanged(harness, name);
                v.assert_unchanged(harness, name);
            }
        }
    }
}
