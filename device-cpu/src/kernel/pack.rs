//! Between the caller's strided elements and the kernels' dense f32.

use super::rows::DocumentRows;
use super::{CHUNK, KEYS, padded};
use crate::simd::{self, Simd};
use crate::strided::{StridedMut, StridedRef};
use microseq_core::{DType, Element};

/// Reads a vector of elements.
///
/// # Safety
/// As [`Simd`]; `from` reaches `LANES` elements.
#[inline(always)]
unsafe fn load<S: Simd, E: Element>(from: *const E) -> S::V {
    // SAFETY: `E` is the type that `DTYPE` names: the set of elements is closed.
    unsafe {
        match E::DTYPE {
            DType::F32 => S::load(from.cast()),
            DType::F16 => S::load_f16(from.cast()),
            DType::Bf16 => S::load_bf16(from.cast()),
        }
    }
}

/// Writes a vector of elements.
///
/// # Safety
/// As [`Simd`]; `to` reaches `LANES` elements.
#[inline(always)]
unsafe fn store<S: Simd, E: Element>(to: *mut E, v: S::V) {
    // SAFETY: `E` is the type that `DTYPE` names: the set of elements is closed.
    unsafe {
        match E::DTYPE {
            DType::F32 => S::store(to.cast(), v),
            DType::F16 => S::store_f16(to.cast(), v),
            DType::Bf16 => S::store_bf16(to.cast(), v),
        }
    }
}

/// Widens `n` elements and pads them with zeros to `width`.
///
/// # Safety
/// As [`Simd`]; `from` reaches `n` elements, `to` `width`, a multiple of `LANES` and at least `n`.
#[inline(always)]
pub(crate) unsafe fn widen<S: Simd, E: Element>(from: *const E, n: usize, to: *mut f32, width: usize) {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: offsets stay below `n` on the one side and `width` on the other.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            S::store(to.add(i), load::<S, E>(from.add(i)));
        }
        for i in whole..n {
            *to.add(i) = (*from.add(i)).to_f32();
        }
        for i in n..width {
            *to.add(i) = 0.0;
        }
    }
}

/// Rounds `n` values to elements.
///
/// # Safety
/// As [`Simd`]; `from` and `to` reach `n` elements.
#[inline(always)]
pub(crate) unsafe fn narrow<S: Simd, E: Element>(from: *const f32, n: usize, to: *mut E) {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: offsets stay below `n`.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            store::<S, E>(to.add(i), S::load(from.add(i)));
        }
        for i in whole..n {
            *to.add(i) = E::from_f32(*from.add(i));
        }
    }
}

/// Widens `rows` rows of a document, from row `first` on, to `[count][padded head_dim]`; the rest up
/// to `count` becomes zeros.
///
/// # Safety
/// As [`Simd`]; the rows are the document's, `from` is a view of its query rows, and `to` reaches
/// `count` rows.
#[inline(always)]
pub(crate) unsafe fn rows<S: Simd, E: Element>(
    document: &DocumentRows,
    from: &StridedRef<E>,
    first: usize,
    rows: usize,
    count: usize,
    head_dim: usize,
    to: *mut f32,
) {
    let width = padded(head_dim);
    // SAFETY: the caller vouches for the rows.
    unsafe {
        for i in 0..rows {
            let (row, head) = document.place(first + i);
            widen::<S, E>(from.at(row, head), head_dim, to.add(i * width), width);
        }
        for i in rows * width..count * width {
            *to.add(i) = 0.0;
        }
    }
}

/// Rounds rows `[rows][padded head_dim]` into a document, from row `first` on.
///
/// # Safety
/// As [`Simd`]; the rows are the document's, `to` is a view of its query rows, which no other thread
/// touches, and `from` reaches `rows` rows.
#[inline(always)]
pub(crate) unsafe fn write_rows<S: Simd, E: Element>(
    document: &DocumentRows,
    from: *const f32,
    first: usize,
    rows: usize,
    head_dim: usize,
    to: &StridedMut<E>,
) {
    let width = padded(head_dim);
    for i in 0..rows {
        let (row, head) = document.place(first + i);
        // SAFETY: the caller vouches for the rows.
        unsafe { narrow::<S, E>(from.add(i * width), head_dim, to.at(row, head)) }
    }
}

/// Transposes a panel, `[2 * LANES][width]` to `[width][2 * LANES]`; `width` a multiple of 16.
///
/// # Safety
/// As [`Simd`]; both pointers reach a panel.
#[inline(always)]
pub(crate) unsafe fn to_lanes<S: Simd>(from: *const f32, width: usize, to: *mut f32) {
    for half in 0..2 {
        for column in (0..width).step_by(S::LANES) {
            // SAFETY: blocks of LANES rows and LANES columns tile the panel.
            unsafe {
                let block = from.add(half * S::LANES * width + column);
                S::transpose(block, width, to.add(column * 2 * S::LANES + half * S::LANES), 2 * S::LANES);
            }
        }
    }
}

/// Transposes back, `[width][2 * LANES]` to `[2 * LANES][width]`.
///
/// # Safety
/// As [`Simd`]; both pointers reach a panel.
#[inline(always)]
pub(crate) unsafe fn from_lanes<S: Simd>(from: *const f32, width: usize, to: *mut f32) {
    for half in 0..2 {
        for column in (0..width).step_by(S::LANES) {
            // SAFETY: blocks of LANES rows and LANES columns tile the panel.
            unsafe {
                let block = from.add(column * 2 * S::LANES + half * S::LANES);
                S::transpose(block, 2 * S::LANES, to.add(half * S::LANES * width + column), width);
            }
        }
    }
}

/// Packs `keys` keys or values of a head, from K/V row `first` on, into a tile
/// `[padded head_dim / 16][KEYS][16]`. The rest of the tile is left as it was.
///
/// # Safety
/// As [`Simd`]; the rows and the head are in the view, and `to` reaches a tile.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, E: Element>(
    from: &StridedRef<E>,
    first: usize,
    keys: usize,
    head: usize,
    head_dim: usize,
    to: *mut f32,
) {
    // Chunk by chunk, so that the tile is written from its begin to its end.
    for chunk in (0..head_dim).step_by(CHUNK) {
        let n = (head_dim - chunk).min(CHUNK);
        for key in 0..keys {
            // SAFETY: the caller vouches for the rows; chunk and key stay inside the tile.
            unsafe {
                let from = from.at(first + key, head).add(chunk);
                widen::<S, E>(from, n, to.add(chunk * KEYS + key * CHUNK), CHUNK);
            }
        }
    }
}

/// Asks for `n` elements in the core's own cache: tiles and rows lie apart in the caller's memory, in
/// runs too short for the CPU to foresee.
#[inline(always)]
pub(crate) fn prefetch<E: Element>(from: *const E, n: usize) {
    const LINE: usize = 64;
    for byte in (0..n * size_of::<E>()).step_by(LINE) {
        simd::prefetch(from.cast::<u8>().wrapping_add(byte));
    }
}
