//! The attention algorithm, once, over [`Simd`](crate::simd::Simd) and [`Products`].
//!
//! # Shape of the work
//!
//! A *row* is a (token, query head) pair of one K/V head's group, numbered `token * group + head`
//! within a document: the heads of a group lie side by side and share every loaded key. Keys are read
//! in *tiles* of [`KEYS`], counted from the document's begin. Scores lie by rows, a key in each lane, so
//! only keys are ever transposed, and rows come and go as the caller holds them; what a row computes
//! takes nothing from the rows beside it (I1).
//!
//! Operands of products are packed into 32-bit *words*: an f32, or two neighbouring bf16 for
//! instructions that multiply pairs ([`Arithmetic`]); words into *chunks* of [`CHUNK`].
//!
//! # Order of sums
//!
//! Every accumulator is one chain of multiply-adds: along head_dim for scores, along ascending keys
//! for `out` and `dq`, along descending rows for `dk` and `dv`, which start from the values in the
//! gradient store. Masked terms add an exact 0. So neither the cut into panels and tiles nor the cut
//! into steps shows in the bits, but for one thing: where rows are multiplied in pairs, or 32 at once
//! ([`tiles`]), a cut must not part them. Where a sum's sign of zero could depend on a cut, adding +0 settles it.
//!
//! Rows of a document's first tokens see few keys and are taken in a way of their own ([`opening`]), after
//! the rows behind them, so that the order of rows is the same. Their scores are sums of `LANES` chains.

mod ahead;
mod arithmetic;
pub(crate) mod backward;
mod fold;
pub(crate) mod forward;
mod gemm;
mod gradient;
mod lanes;
mod opening;
mod pack;
pub(crate) mod products;
pub(crate) mod rows;
pub(crate) mod scoring;
mod sights;
mod sink;
mod softmax;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

pub(crate) use ahead::Span;
#[cfg(target_arch = "x86_64")]
pub(crate) use arithmetic::Bf16Pairs;
pub(crate) use arithmetic::{Arithmetic, MultiplyAdd, Singles};
pub(crate) use rows::Places;

/// Keys of a tile, at most.
pub(crate) const KEYS: usize = 256;

/// Keys of the smallest block of keys in the backward pass; others are multiples.
pub(crate) const GRAIN: usize = 128;

/// Words that lie side by side in packed operands; widths are padded to a multiple.
pub(crate) const CHUNK: usize = 16;

/// From a row of scores to the next: a tile's keys, and a chunk more, so that a column of scores does
/// not fall into a few sets of the cache.
const SCORES: usize = KEYS + CHUNK;

/// Rows of a panel: what a tile meets at a time in the forward pass.
pub(crate) const PANEL: usize = 32;

/// Rows of a block in the backward pass.
pub(crate) const ROWS: usize = 64;

/// From a chunk of `rows` packed rows of words to the next: a row more than there are, so that the chunks
/// of a row do not fall into one set of the cache.
pub(crate) const fn slice(rows: usize) -> usize {
    (rows + 1) * CHUNK
}

/// head_dim with its padding.
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(CHUNK)
}

/// Sizes of the kernels' arrays, for an element type and a head_dim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// head_dim, padded.
    pub(crate) width: usize,
    /// Words of a row's head_dim, padded.
    pub(crate) words: usize,
    /// Elements of a word: 1, or 2 where products take pairs.
    pub(crate) per_word: usize,
}

impl Geometry {
    pub(crate) const fn new(per_word: usize, head_dim: usize) -> Self {
        Self { width: padded(head_dim), words: padded(head_dim.div_ceil(per_word)), per_word }
    }

    /// Words of a packed tile of transposed keys.
    pub(crate) const fn transposed_tile(&self) -> usize {
        KEYS / CHUNK * slice(self.words)
    }

    /// Words of a tile that is packed by words of keys.
    pub(crate) const fn tile_by_keys(&self) -> usize {
        self.width / CHUNK * slice(KEYS / self.per_word)
    }
}
