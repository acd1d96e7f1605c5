//! A lane's scratch in the backward pass.

use super::KEYS;
use crate::kernel::Geometry;
use crate::scratch::Carver;

/// A lane's arrays. Where a word holds one element, what is packed by pairs is the same as what is
/// not, and shares its place.
pub(super) struct Arrays {
    /// The block's keys and values, by words of head_dim, a tile after the other.
    pub(super) k: *mut f32,
    pub(super) v: *mut f32,
    /// The keys by words of keys.
    pub(super) k_pairs: *mut f32,
    /// Gradients of keys and values, `[key][width]`.
    pub(super) dk: *mut f32,
    pub(super) dv: *mut f32,
    /// A block of rows on its way from the caller's memory, and rows of dq on theirs.
    pub(super) staging: *mut f32,
    /// A block of rows by words of rows, `[words of rows][width]` …
    pub(super) q_rows: *mut f32,
    pub(super) dout_rows: *mut f32,
    /// … and by words of head_dim, `[panel][words][2 * LANES]`.
    pub(super) q: *mut f32,
    pub(super) dout: *mut f32,
    /// dq, `[panel][width][2 * LANES]`, where it is not on its way between blocks of keys.
    pub(super) dq: *mut f32,
    /// logsumexp in base 2 and `out . dout`, one for each row.
    pub(super) lse: *mut f32,
    pub(super) delta: *mut f32,
    /// Probabilities and gradients of products, `[panel][KEYS][2 * LANES]`.
    pub(super) p: *mut f32,
    pub(super) ds: *mut f32,
    /// A panel's `ds` by words of keys.
    pub(super) ds_pairs: *mut f32,
}

impl Arrays {
    pub(super) fn carve(memory: &mut Carver, geometry: &Geometry, keys: usize) -> Self {
        let Geometry { panel, width, words, per_word } = *geometry;
        let rows = geometry.row_block();
        let paired = per_word > 1;
        let k = memory.take(keys * words);
        let q_rows = memory.take(rows * width / per_word);
        Self {
            k,
            v: memory.take(keys * words),
            k_pairs: if paired { memory.take(keys * width / per_word) } else { k },
            dk: memory.take(keys * width),
            dv: memory.take(keys * width),
            staging: if paired { memory.take(rows * width) } else { q_rows },
            q_rows,
            dout_rows: memory.take(rows * width / per_word),
            q: memory.take(rows * words),
            dout: memory.take(rows * words),
            dq: memory.take(rows * width),
            lse: memory.take(rows),
            delta: memory.take(rows),
            p: memory.take(rows * KEYS),
            ds: memory.take(rows * KEYS),
            ds_pairs: memory.take(if paired { panel * KEYS / per_word } else { 0 }),
        }
    }
}

/// Bytes of scratch of a lane, for blocks of `block_keys` keys.
pub(crate) fn bytes(geometry: &Geometry, block_keys: usize) -> usize {
    let mut memory = Carver::counting();
    Arrays::carve(&mut memory, geometry, block_keys);
    memory.used()
}
