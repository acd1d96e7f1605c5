//! Between the caller's strided elements and the kernels' dense words and f32.

use super::rows::DocumentRows;
use super::{Arithmetic, CHUNK, KEYS, padded};
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

/// Makes words of `n` elements and pads them with zeros to `words`.
///
/// # Safety
/// As [`Simd`]; `from` reaches `n` elements, `to` `words` words, a multiple of `LANES`, which hold at
/// least `n` elements. For words of two elements, these are bf16.
#[inline(always)]
unsafe fn words<S: Simd, A: Arithmetic<S>, E: Element>(from: *const E, n: usize, to: *mut f32, words: usize) {
    // SAFETY: the caller vouches for the pointers; a word has room for two elements of 16 bits.
    unsafe {
        if A::PER_WORD == 1 {
            return widen::<S, E>(from, n, to, words);
        }
        let to = to.cast::<u16>();
        core::ptr::copy_nonoverlapping(from.cast::<u16>(), to, n);
        for i in n..2 * words {
            *to.add(i) = 0;
        }
    }
}

/// Makes words of pairs, an element of `first` and one of `second` each, of `n` elements; the rest up
/// to `width` becomes zeros. Without a `second`, its elements count as 0.
///
/// # Safety
/// `first` and `second` reach `n` elements of 16 bits, `to` `width` words, at least `n`.
#[inline(always)]
unsafe fn pairs<E: Element>(first: *const E, second: Option<*const E>, n: usize, to: *mut f32, width: usize) {
    let (first, to) = (first.cast::<u16>(), to.cast::<u32>());
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        match second.map(|second| second.cast::<u16>()) {
            Some(second) => {
                for i in 0..n {
                    *to.add(i) = u32::from(*first.add(i)) | u32::from(*second.add(i)) << 16;
                }
            }
            None => {
                for i in 0..n {
                    *to.add(i) = u32::from(*first.add(i));
                }
            }
        }
        for i in n..width {
            *to.add(i) = 0;
        }
    }
}

/// Some rows of a document in one of its views of queries.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a, E> {
    pub(crate) document: &'a DocumentRows,
    pub(crate) view: &'a StridedRef<E>,
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) head_dim: usize,
}

impl<E: Element> Source<'_, E> {
    /// The elements of row `row` of these.
    ///
    /// # Safety
    /// The rows are in the document, and the document in the view.
    #[inline(always)]
    unsafe fn at(&self, row: usize) -> *const E {
        let (row, head) = self.document.place(self.first + row);
        // SAFETY: the caller vouches for the row.
        unsafe { self.view.at(row, head) }
    }
}

/// Packs rows to `[count][width]` words along head_dim; rows behind the last become zeros.
///
/// # Safety
/// As [`Simd`]; the rows are in the document, the document in the view; `to` reaches `count` rows.
#[inline(always)]
pub(crate) unsafe fn rows<S: Simd, A: Arithmetic<S>, E: Element>(
    source: Source<'_, E>,
    count: usize,
    width: usize,
    to: *mut f32,
) {
    // SAFETY: the caller vouches for the rows.
    unsafe {
        for i in 0..source.rows {
            words::<S, A, E>(source.at(i), source.head_dim, to.add(i * width), width);
        }
        for i in source.rows * width..count * width {
            *to.add(i) = 0.0;
        }
    }
}

/// Packs rows to `[count / 2][width]` words of two rows each; rows behind the last become zeros.
///
/// # Safety
/// As [`rows`], for elements of 16 bits; `to` reaches `count / 2` rows of words.
#[inline(always)]
pub(crate) unsafe fn row_pairs<E: Element>(source: Source<'_, E>, count: usize, width: usize, to: *mut f32) {
    // SAFETY: the caller vouches for the rows.
    unsafe {
        for i in (0..source.rows).step_by(2) {
            let second = (i + 1 < source.rows).then(|| source.at(i + 1));
            pairs(source.at(i), second, source.head_dim, to.add(i / 2 * width), width);
        }
        for i in source.rows.div_ceil(2) * width..count / 2 * width {
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

/// Some keys or values of a head in a K/V view: at most a tile of them.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a, E> {
    pub(crate) view: &'a StridedRef<E>,
    pub(crate) first: usize,
    pub(crate) keys: usize,
    pub(crate) head: usize,
    pub(crate) head_dim: usize,
}

/// Packs keys into a tile of words along head_dim, `[words / 16][KEYS][16]`. The rest of the tile is
/// left as it was.
///
/// # Safety
/// As [`Simd`]; the rows and the head are in the view, and `to` reaches a tile.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, A: Arithmetic<S>, E: Element>(from: Keys<'_, E>, to: *mut f32) {
    let step = CHUNK * A::PER_WORD;
    // Chunk by chunk, so that the tile is written from its begin to its end.
    for (chunk, column) in (0..from.head_dim).step_by(step).enumerate() {
        let n = (from.head_dim - column).min(step);
        for key in 0..from.keys {
            // SAFETY: the caller vouches for the rows; chunk and key stay inside the tile.
            unsafe {
                let row = from.view.at(from.first + key, from.head).add(column);
                words::<S, A, E>(row, n, to.add((chunk * KEYS + key) * CHUNK), CHUNK);
            }
        }
    }
}

/// Packs keys into a tile of words of two keys each, `[padded head_dim / 16][KEYS / 2][16]`.
///
/// # Safety
/// As [`tile`], for elements of 16 bits.
#[inline(always)]
pub(crate) unsafe fn pair_tile<E: Element>(from: Keys<'_, E>, to: *mut f32) {
    for (chunk, column) in (0..from.head_dim).step_by(CHUNK).enumerate() {
        let n = (from.head_dim - column).min(CHUNK);
        for key in (0..from.keys).step_by(2) {
            // SAFETY: the caller vouches for the rows; chunk and pair stay inside the tile.
            unsafe {
                let row = |key: usize| from.view.at(from.first + key, from.head).add(column);
                let second = (key + 1 < from.keys).then(|| row(key + 1));
                pairs(row(key), second, n, to.add((chunk * KEYS / 2 + key / 2) * CHUNK), CHUNK);
            }
        }
    }
}

/// Makes words of two neighbouring keys of values `[keys][2 * LANES]`: `[keys / 2][2 * LANES]`.
///
/// # Safety
/// As [`Simd`]; `keys` is even, `from` reaches them, `to` half of them; `to` may be `from`.
#[inline(always)]
pub(crate) unsafe fn fold_keys<S: Simd, A: Arithmetic<S>>(from: *const f32, keys: usize, to: *mut f32) {
    let lanes = 2 * S::LANES;
    for pair in 0..keys / 2 {
        // SAFETY: the caller vouches for the pointers; a pair is written where no later one is read.
        unsafe {
            for half in [0, S::LANES] {
                let first = S::load(from.add(2 * pair * lanes + half));
                let second = S::load(from.add((2 * pair + 1) * lanes + half));
                S::store(to.add(pair * lanes + half), A::pair(first, second));
            }
        }
    }
}

/// Makes words of two neighbouring rows of values `[keys][2 * LANES]`, in place: `[keys][LANES]`.
///
/// # Safety
/// As [`Simd`]; `values` reaches the keys.
#[inline(always)]
pub(crate) unsafe fn fold_rows<S: Simd, A: Arithmetic<S>>(values: *mut f32, keys: core::ops::Range<usize>) {
    for key in keys {
        // SAFETY: the caller vouches for the pointer; a key is written where no later one is read.
        unsafe {
            let from = values.add(2 * key * S::LANES);
            let words = A::neighbours(S::load(from), S::load(from.add(S::LANES)));
            S::store(values.add(key * S::LANES), words);
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
