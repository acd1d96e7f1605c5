//! Between the caller's strided elements and the kernels' dense words and f32.
//!
//! Operands of products are packed in chunks of [`CHUNK`] words. *By words of head_dim*, a row's
//! elements follow each other; *by words of rows*, a word holds an element of each of `PER_WORD`
//! neighbouring rows. Where a word holds one element, the two are the same.

use super::rows::Places;
use super::{Arithmetic, CHUNK, KEYS, slice};
use crate::simd::Simd;
use crate::strided::StridedRef;
use microseq_core::{DType, Element};

/// Reads a vector of elements.
///
/// # Safety
/// As [`Simd`]; `from` reaches `LANES` elements.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, E: Element>(from: *const E) -> S::V {
    // SAFETY: `E` is the type that `DTYPE` names: the set of elements is closed.
    unsafe {
        match E::DTYPE {
            DType::F32 => S::load(from.cast()),
            DType::F16 => S::load_f16(from.cast()),
            DType::Bf16 => S::load_bf16(from.cast()),
        }
    }
}

/// Reads a vector of words of head_dim.
///
/// # Safety
/// As [`Simd`]; `from` reaches the words. For words of two elements, these are bf16.
#[inline(always)]
pub(crate) unsafe fn words<S: Simd, A: Arithmetic<S>, E: Element>(from: *const E) -> S::V {
    // SAFETY: the caller vouches for the words.
    unsafe { if A::PER_WORD == 1 { load::<S, E>(from) } else { S::load(from.cast()) } }
}

/// Writes a vector of elements.
///
/// # Safety
/// As [`Simd`]; `to` reaches `LANES` elements.
#[inline(always)]
unsafe fn store<S: Simd, A: Arithmetic<S>, E: Element>(to: *mut E, v: S::V) {
    // SAFETY: `E` is the type that `DTYPE` names: the set of elements is closed.
    unsafe {
        match E::DTYPE {
            DType::F32 => S::store(to.cast(), v),
            DType::F16 => S::store_f16(to.cast(), v),
            DType::Bf16 => A::store_bf16(to.cast(), v),
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

/// Rounds a vector times `factor` to elements. Adding 0 settles the sign of a zero, which could depend on
/// how many masked terms were added.
///
/// # Safety
/// As [`Simd`]; `to` reaches `LANES` elements.
#[inline(always)]
pub(crate) unsafe fn round<S: Simd, A: Arithmetic<S>, E: Element>(v: S::V, factor: f32, to: *mut E) {
    // SAFETY: the caller vouches for the elements.
    unsafe { store::<S, A, E>(to, S::add(S::mul(v, S::splat(factor)), S::splat(0.0))) }
}

/// Rounds `n` values times `factor` to elements, as [`round`] does.
///
/// # Safety
/// As [`Simd`]; `from` and `to` reach `n` elements.
#[inline(always)]
pub(crate) unsafe fn narrow<S: Simd, A: Arithmetic<S>, E: Element>(
    from: *const f32,
    factor: f32,
    n: usize,
    to: *mut E,
) {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: offsets stay below `n`.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            round::<S, A, E>(S::load(from.add(i)), factor, to.add(i));
        }
        for i in whole..n {
            *to.add(i) = E::from_f32(*from.add(i) * factor + 0.0);
        }
    }
}

/// Packs a row by words of head_dim: `n` elements in chunks `stride` apart, and zeros behind.
///
/// # Safety
/// As [`Simd`]; `from` reaches `n` elements, `to` the chunks. For words of two elements, these are bf16.
#[inline(always)]
unsafe fn row<S: Simd, A: Arithmetic<S>, E: Element>(
    mut from: *const E,
    n: usize,
    mut to: *mut f32,
    stride: usize,
) {
    let step = CHUNK * A::PER_WORD;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        for _ in 0..n / step {
            for i in (0..CHUNK).step_by(S::LANES) {
                S::store(to.add(i), words::<S, A, E>(from.add(i * A::PER_WORD)));
            }
            (from, to) = (from.wrapping_add(step), to.wrapping_add(stride));
        }
        if !n.is_multiple_of(step) {
            chunk::<S, A, E>(from, n % step, to);
        }
    }
}

/// Packs a chunk of words of `n` elements, fewer than it holds, and zeros behind.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn chunk<S: Simd, A: Arithmetic<S>, E: Element>(from: *const E, n: usize, to: *mut f32) {
    // SAFETY: the caller vouches for the pointers; a word has room for two elements of 16 bits.
    unsafe {
        if A::PER_WORD == 1 {
            return widen::<S, E>(from, n, to, CHUNK);
        }
        let to = to.cast::<u16>();
        core::ptr::copy_nonoverlapping(from.cast::<u16>(), to, n);
        for i in n..2 * CHUNK {
            *to.add(i) = 0;
        }
    }
}

/// Packs two rows by words of rows: `n` elements of `first` and of `second` in chunks `stride` apart, and
/// zeros behind. Without a `second`, its elements count as 0.
///
/// # Safety
/// As [`Simd`]; `first` and `second` reach `n` elements of 16 bits, `to` the chunks.
#[inline(always)]
unsafe fn row_pair<S: Simd, A: Arithmetic<S>, E: Element>(
    first: *const E,
    second: Option<*const E>,
    n: usize,
    to: *mut f32,
    stride: usize,
) {
    let (first, second) = (first.cast::<u16>(), second.map(|second| second.cast::<u16>()));
    let mut done = 0;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        if let Some(second) = second {
            for index in 0..n / CHUNK {
                for i in (0..CHUNK).step_by(S::LANES) {
                    let words = A::weave(first.add(done + i), second.add(done + i));
                    S::store(to.add(index * stride + i), words);
                }
                done += CHUNK;
            }
        }
        for i in done..n.next_multiple_of(CHUNK) {
            let element = |of: *const u16| if i < n { u32::from(*of.add(i)) } else { 0 };
            let word = element(first) | second.map_or(0, element) << 16;
            *to.cast::<u32>().add(i / CHUNK * stride + i % CHUNK) = word;
        }
    }
}

/// Rows of one of a document's views, from `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a, E> {
    pub(crate) view: &'a StridedRef<E>,
    pub(crate) first: Places,
    pub(crate) rows: usize,
    pub(crate) head_dim: usize,
}

impl<E: Element> Source<'_, E> {
    /// The first element of each row.
    ///
    /// # Safety
    /// The rows are in the view.
    #[inline(always)]
    unsafe fn each(&self) -> impl Iterator<Item = *const E> {
        // SAFETY: the caller vouches for the rows.
        self.first.take(self.rows).map(|(row, head)| unsafe { self.view.at(row, head) })
    }

    /// Packs the rows by words of head_dim, `[words / 16][capacity][16]`.
    ///
    /// # Safety
    /// As [`Simd`]; the rows are in the view, no more than `capacity`, and `to` reaches that many.
    #[inline(always)]
    pub(crate) unsafe fn pack<S: Simd, A: Arithmetic<S>>(&self, capacity: usize, to: *mut f32) {
        // SAFETY: the caller vouches for the rows.
        unsafe {
            for (index, from) in self.each().enumerate() {
                row::<S, A, E>(from, self.head_dim, to.add(index * CHUNK), slice(capacity));
            }
        }
    }

    /// Packs the rows by words of rows, `[padded head_dim / 16][capacity / PER_WORD][16]`, and zeros
    /// behind up to a multiple of `pad` rows, at least a word.
    ///
    /// # Safety
    /// As [`pack`](Self::pack); `capacity` is a multiple of `pad`.
    #[inline(always)]
    pub(crate) unsafe fn pack_by_rows<S: Simd, A: Arithmetic<S>>(
        &self,
        capacity: usize,
        pad: usize,
        to: *mut f32,
    ) {
        let capacity = capacity / A::PER_WORD;
        // SAFETY: the caller vouches for the rows.
        unsafe {
            if A::PER_WORD == 1 {
                self.pack::<S, A>(capacity, to);
            } else {
                self.pack_pairs::<S, A>(capacity, to);
            }
            let (used, padded) =
                (self.rows.div_ceil(A::PER_WORD), self.rows.next_multiple_of(pad) / A::PER_WORD);
            for chunk in 0..self.head_dim.div_ceil(CHUNK) {
                for i in used * CHUNK..padded * CHUNK {
                    *to.add(chunk * slice(capacity) + i) = 0.0;
                }
            }
        }
    }

    /// Packs the rows by words of pairs of rows, `[padded head_dim / 16][capacity][16]`. The partner of a
    /// last row without one counts as 0.
    ///
    /// # Safety
    /// As [`pack`](Self::pack), for elements of 16 bits; `capacity` counts words.
    #[inline(always)]
    unsafe fn pack_pairs<S: Simd, A: Arithmetic<S>>(&self, capacity: usize, to: *mut f32) {
        // SAFETY: the caller vouches for the rows.
        unsafe {
            let mut rows = self.each();
            let mut pair = 0;
            while let Some(first) = rows.next() {
                let to = to.add(pair * CHUNK);
                row_pair::<S, A, E>(first, rows.next(), self.head_dim, to, slice(capacity));
                pair += 1;
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

impl<E: Element> Keys<'_, E> {
    /// The keys as rows.
    #[inline(always)]
    pub(crate) fn rows(&self) -> Source<'_, E> {
        let first = Places::down(self.first, self.head);
        Source { view: self.view, first, rows: self.keys, head_dim: self.head_dim }
    }

    /// Packs the keys by words of head_dim and transposes them, `[KEYS / 16][words][16]`: a key in each
    /// lane. Lanes behind the last key hold something.
    ///
    /// `staging` reaches a chunk of rows of `words` words.
    ///
    /// # Safety
    /// As [`Simd`]; the keys are in the view, at least one, and `to` reaches a tile.
    #[inline(always)]
    pub(crate) unsafe fn pack_transposed<S: Simd, A: Arithmetic<S>>(
        &self,
        words: usize,
        staging: *mut f32,
        to: *mut f32,
    ) {
        // SAFETY: the caller vouches for the keys; a chunk of them is staged before it is transposed.
        unsafe {
            for begin in (0..self.keys).step_by(CHUNK) {
                let keys = (self.keys - begin).min(CHUNK);
                let part = Keys { first: self.first + begin, keys, ..*self };
                let (from, stride) = part.words::<S, A>().unwrap_or_else(|| {
                    part.stage::<S, A>(words, staging);
                    (staging, words)
                });
                let to = to.add(begin / CHUNK * slice(words));
                for half in (0..CHUNK).step_by(S::LANES) {
                    for word in (0..words).step_by(S::LANES) {
                        let from = from.add(half * stride + word);
                        S::transpose(from, stride, to.add(word * CHUNK + half), CHUNK);
                    }
                }
            }
        }
    }

    /// The keys as words in the caller's memory, and words from a key to the next: where they are a whole
    /// chunk, and words already.
    ///
    /// # Safety
    /// The keys are in the view.
    #[inline(always)]
    unsafe fn words<S: Simd, A: Arithmetic<S>>(&self) -> Option<(*mut f32, usize)> {
        let stride = self.view.row_stride();
        let are_words = size_of::<E>() * A::PER_WORD == size_of::<f32>();
        let whole = self.keys == CHUNK
            && self.head_dim.is_multiple_of(CHUNK * A::PER_WORD)
            && stride.is_multiple_of(A::PER_WORD);
        // SAFETY: the caller vouches for the keys.
        let first = unsafe { self.view.at(self.first, self.head) };
        (are_words && whole).then_some((first.cast::<f32>().cast_mut(), stride / A::PER_WORD))
    }

    /// Copies a chunk of keys to `[16][words]`.
    ///
    /// # Safety
    /// As [`pack_transposed`](Self::pack_transposed).
    #[inline(always)]
    unsafe fn stage<S: Simd, A: Arithmetic<S>>(&self, words: usize, staging: *mut f32) {
        // SAFETY: the caller vouches for the keys; the staging holds a chunk of them.
        unsafe {
            for (key, from) in self.rows().each().enumerate() {
                row::<S, A, E>(from, self.head_dim, staging.add(key * words), CHUNK);
            }
        }
    }

    /// Packs the keys by words of keys, `[padded head_dim / 16][KEYS / PER_WORD][16]`, and zeros behind
    /// up to a multiple of `pad` keys.
    ///
    /// # Safety
    /// As [`Simd`]; the keys are in the view, and `to` reaches a tile, which is a multiple of `pad`.
    #[inline(always)]
    pub(crate) unsafe fn pack_by_keys<S: Simd, A: Arithmetic<S>>(&self, pad: usize, to: *mut f32) {
        // SAFETY: the caller vouches for the keys.
        unsafe { self.rows().pack_by_rows::<S, A>(KEYS, pad, to) }
    }
}
