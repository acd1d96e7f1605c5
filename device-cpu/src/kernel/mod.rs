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
//! Keys are read in *tiles* of [`KEYS`], counted from the document's begin. Each tile is packed once
//! per block of panels into f32, `[head_dim / 16][KEYS][16]`: from that one layout keys are broadcast
//! both along head_dim (scores) and along keys (output, dq).
//!
//! # Order of sums
//!
//! Every accumulator is one chain of fused multiply-adds: along head_dim for scores, along ascending
//! keys for `out` and `dq`, along descending rows for `dk` and `dv`, which start from the values in
//! the gradient store. Masked terms add an exact 0. So neither the cut into panels and tiles nor the
//! cut into steps shows in the bits; where a sum's sign of zero could depend on it, adding +0 settles
//! it.

pub(crate) mod backward;
pub(crate) mod forward;
mod gemm;
mod pack;
pub(crate) mod rows;
pub(crate) mod softmax;

/// Keys of a tile.
pub(crate) const KEYS: usize = 128;

/// Elements of head_dim that lie side by side in a packed tile; head_dim is padded to a multiple.
pub(crate) const CHUNK: usize = 16;

/// head_dim with its padding.
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(CHUNK)
}
