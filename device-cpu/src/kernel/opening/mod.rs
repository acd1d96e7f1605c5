//! The first tokens of each document: rows that see few keys, multiplied where the caller holds them.
//!
//! Under a causal mask a token's place in its document says how many keys it sees at most. For the other
//! kernels a few keys are as much work as a chunk of them: rows are packed, keys transposed, and lanes
//! multiplied that no row sees. Here head_dim lies in lanes instead: a row meets only the keys that it
//! sees, and nothing is packed. Which rows these are, only their place in the document says, so that the
//! first tokens of long documents are among them (I1).
//!
//! Rows come in *batches*, as many as a vector has lanes: sums along head_dim are joined to one vector for
//! each key, a row in each lane, and the softmax needs no sum across lanes. Rows of a token share the keys
//! that they load.
//!
//! Products of bf16 take pairs of head_dim where the others do ([`Arithmetic`](super::Arithmetic)); sums over keys and over
//! rows are multiply-adds of f32, one by one. A row's softmax is made anew in the backward pass, out of the
//! same products: a row that sees one key has probability exactly 1 and gradients of exactly 0.

mod arrays;
mod backward;
mod batch;
mod forward;
mod products;
mod softmax;
mod staging;
mod sums;
#[cfg(test)]
mod tests;

pub(super) use backward::{bytes as backward_bytes, run as backward};
pub(super) use forward::{bytes as forward_bytes, run as forward};

use super::rows::{DocumentRows, Run};
use super::{CHUNK, MultiplyAdd};

/// Tokens at a document's begin whose rows are taken here: they see as many keys at most.
pub(crate) const OPENING: usize = 8;

/// Rows and keys that a tile of registers has at most.
const ROWS: usize = 4;
const KEYS: usize = 2;

/// head_dim, padded to whole chunks of words.
const fn padded(head_dim: usize, per_word: usize) -> usize {
    head_dim.next_multiple_of(CHUNK * per_word)
}

/// About how many tiles the products and the sums of keys are: steps at which memory can be asked for.
#[inline(always)]
fn steps(document: &DocumentRows, width: usize) -> u64 {
    let columns = width.div_ceil(sums::COLUMNS);
    let tiles = |run: Run| run.rows.div_ceil(ROWS) * (run.keys.len().div_ceil(KEYS) + columns);
    document.runs(0..document.opening()).map(tiles).sum::<usize>() as u64
}
