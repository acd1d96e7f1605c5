//! Operands as the kernels take them.

use crate::args::View;
use crate::memory::{DeviceMemory, DeviceMut, DeviceRef};
use core::mem::size_of;
use microseq_core::{KvMut, KvParts, Layout, RowsMut, RowsRef, Scalar};

/// Where a view's first element lies, and its strides.
fn view<T>(address: u64, layout: &Layout) -> View {
    View {
        data: address.wrapping_add((layout.offset() * size_of::<T>()) as u64),
        row_stride: layout.row_stride() as i64,
        head_stride: layout.head_stride() as i64,
    }
}

pub(crate) fn view_of<T: Scalar>(rows: RowsRef<'_, DeviceMemory, T>) -> View {
    let memory: DeviceRef<'_, T> = rows.memory();
    view::<T>(memory.address(), &rows.layout())
}

pub(crate) fn view_of_mut<T: Scalar>(rows: RowsMut<'_, DeviceMemory, T>) -> View {
    let layout = rows.layout();
    let memory: DeviceMut<'_, T> = rows.into_memory();
    view::<T>(memory.address(), &layout)
}

/// The views of K and V, and their layouts.
pub(crate) fn views_of_mut<T: Scalar>(kv: KvMut<'_, DeviceMemory, T>) -> [(View, Layout); 2] {
    match kv.into_parts() {
        KvParts::Packed { memory, k, v } => {
            [k, v].map(|layout| (view::<T>(memory.address(), &layout), layout))
        }
        KvParts::Separate { k, v } => {
            [k, v].map(|rows| (rows.layout(), rows)).map(|(layout, rows)| (view_of_mut(rows), layout))
        }
    }
}

/// Whether every head of every row begins at a multiple of 16 bytes.
pub(crate) fn aligned<T>(views: &[View], layouts: &[Layout]) -> bool {
    let even = |elements: usize| (elements * size_of::<T>()).is_multiple_of(16);
    views.iter().zip(layouts).all(|(view, layout)| {
        view.data.is_multiple_of(16)
            && (layout.rows() <= 1 || even(layout.row_stride()))
            && (layout.heads() <= 1 || even(layout.head_stride()))
    })
}
