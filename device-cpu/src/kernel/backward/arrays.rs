//! A lane's scratch in the backward pass.

use super::KEYS;
use crate::kernel::gradient::Known;
use crate::kernel::opening;
use crate::kernel::{CHUNK, Geometry, ROWS, SCORES, slice};
use crate::scratch::Carver;

/// A lane's arrays. Where a word holds one element, what is packed by words of rows is the same as what
/// is packed by words of head_dim, and shares its place.
pub(super) struct Arrays {
    /// The block's keys and values by words of head_dim, transposed, a tile after the other.
    pub(super) k: *mut f32,
    pub(super) v: *mut f32,
    /// The keys by words of keys.
    pub(super) k_by_keys: *mut f32,
    /// Gradients of keys and values, `[key][width]`.
    pub(super) dk: *mut f32,
    pub(super) dv: *mut f32,
    /// A chunk of keys on its way.
    pub(super) staging: *mut f32,
    /// A block of rows by words of head_dim …
    pub(super) q: *mut f32,
    pub(super) dout: *mut f32,
    /// … and by words of rows.
    pub(super) q_by_rows: *mut f32,
    pub(super) dout_by_rows: *mut f32,
    /// dq, `[row][width]`, where it is not on its way between blocks of keys.
    pub(super) dq: *mut f32,
    /// What is known of each row.
    pub(super) lse: *mut f32,
    pub(super) delta: *mut f32,
    pub(super) scale: *mut f32,
    /// Probabilities and gradients of products, by rows …
    pub(super) p: *mut f32,
    pub(super) ds: *mut f32,
    /// … and by words of rows, one of the two at a time.
    pub(super) by_rows: *mut f32,
}

impl Arrays {
    pub(super) fn carve(memory: &mut Carver, geometry: &Geometry, keys: usize) -> Self {
        let Geometry { width, words, per_word } = *geometry;
        let paired = per_word > 1;
        let rows = words / CHUNK * slice(ROWS);
        let by_rows = width / CHUNK * slice(ROWS / per_word);
        let (q, dout) = (memory.take(rows), memory.take(rows));
        Self {
            k: memory.take(keys.div_ceil(KEYS) * geometry.transposed_tile()),
            v: memory.take(keys.div_ceil(KEYS) * geometry.transposed_tile()),
            k_by_keys: memory.take(keys.div_ceil(KEYS) * geometry.tile_by_keys()),
            dk: memory.take(keys * width),
            dv: memory.take(keys * width),
            staging: memory.take(CHUNK * words),
            q,
            dout,
            q_by_rows: if paired { memory.take(by_rows) } else { q },
            dout_by_rows: if paired { memory.take(by_rows) } else { dout },
            dq: memory.take(ROWS * width),
            lse: memory.take(ROWS),
            delta: memory.take(ROWS),
            scale: memory.take(ROWS),
            p: memory.take(ROWS * SCORES),
            ds: memory.take(ROWS * SCORES),
            by_rows: memory.take(if paired { ROWS / per_word * SCORES } else { 0 }),
        }
    }

    pub(super) fn known(&self) -> Known {
        Known { lse: self.lse, delta: self.delta, scale: self.scale }
    }
}

/// Bytes of scratch of a lane, for blocks of `block_keys` keys.
pub(crate) fn bytes(geometry: &Geometry, head_dim: usize, block_keys: usize) -> usize {
    let blocks = Carver::count(|memory| Arrays::carve(memory, geometry, block_keys));
    blocks.max(opening::backward_bytes(geometry, head_dim))
}

const _: () = assert!(KEYS.is_multiple_of(CHUNK) && ROWS.is_multiple_of(CHUNK));
