//! The attention algorithm, once, over [`Simd`](crate::simd::Simd).
//!
//! # Shape of the work
//!
//! A *row* is a (token, query head) pair of one K/V head's group, numbered `token * group + head`
//! within a document: the heads of a group lie side by side and share every loaded key. A *panel* is
//! `2 * LANES` rows, one row in each lane of two vectors. Scores are held transposed, `[key][lane]`,
//! so a row's softmax runs down a lane and no lane ever reads its neighbour: what a row computes
//! cannot depend on which rows share its panel (I1).
//!
//! Keys are read in *tiles* of [`KEYS`], counted from the document's begin. Operands of products are
//! packed into 32-bit *words*: an f32, or two neighbouring bf16 for instructions that multiply pairs
//! ([`Arithmetic`]). A packed tile is `[words / 16][KEYS][16]`.
//!
//! # Order of sums
//!
//! Every accumulator is one chain of multiply-adds: along head_dim for scores, along ascending keys
//! for `out` and `dq`, along descending rows for `dk` and `dv`, which start from the values in the
//! gradient store. Masked terms add an exact 0. So neither the cut into panels and tiles nor the cut
//! into steps shows in the bits, but for one thing: where rows are multiplied in pairs, a cut must not
//! part a pair. Where a sum's sign of zero could depend on a cut, adding +0 settles it.

mod arithmetic;
pub(crate) mod backward;
pub(crate) mod forward;
mod gemm;
mod pack;
pub(crate) mod rows;
pub(crate) mod softmax;

#[cfg(target_arch = "x86_64")]
pub(crate) use arithmetic::Bf16Pairs;
pub(crate) use arithmetic::{Arithmetic, Singles};

/// Keys of a tile.
pub(crate) const KEYS: usize = 128;

/// Words that lie side by side in a packed tile; widths are padded to a multiple.
pub(crate) const CHUNK: usize = 16;

/// Panels of a block of rows in the backward pass.
const ROW_PANELS: usize = 2;

/// head_dim with its padding.
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(CHUNK)
}

/// Sizes of the kernels' arrays, for an instruction set, an element type and a head_dim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Rows of a panel: two vectors' lanes.
    pub(crate) panel: usize,
    /// head_dim, padded.
    pub(crate) width: usize,
    /// Words of a row's head_dim, padded.
    pub(crate) words: usize,
    /// Elements of a word: 1, or 2 where products take pairs.
    pub(crate) per_word: usize,
}

impl Geometry {
    pub(crate) const fn new(panel: usize, per_word: usize, head_dim: usize) -> Self {
        Self { panel, width: padded(head_dim), words: padded(head_dim.div_ceil(per_word)), per_word }
    }

    /// Rows of a block in the backward pass.
    pub(crate) const fn row_block(&self) -> usize {
        ROW_PANELS * self.panel
    }
}
