//! What both passes over an opening have: arrays, and the places of keys.

use super::products::SUMS;
use super::staging::{StagedKeys, StagedRows};
use super::sums::WEIGHTS;
use crate::kernel::Geometry;
use crate::kernel::rows::{DocumentRows, Places};
use crate::scratch::Carver;

/// A lane's arrays that both passes have.
pub(super) struct Arrays {
    /// Products before their lanes are joined.
    pub(super) sums: *mut f32,
    /// Probabilities, `[key][row]`.
    pub(super) p: *mut f32,
    /// Copies where the products cannot take what the caller holds.
    pub(super) q: StagedRows,
    pub(super) k: StagedKeys,
    pub(super) v: StagedKeys,
}

impl Arrays {
    pub(super) fn carve(memory: &mut Carver, geometry: &Geometry, head_dim: usize) -> Self {
        Self {
            sums: memory.take(SUMS),
            p: memory.take(WEIGHTS),
            q: StagedRows::carve(memory, geometry, head_dim),
            k: StagedKeys::carve(memory, geometry, head_dim),
            v: StagedKeys::carve(memory, geometry, head_dim),
        }
    }

    /// Elements of a row as the products take it.
    #[inline(always)]
    pub(super) fn width(&self) -> usize {
        self.q.width()
    }
}

/// Row and head of the keys that some row of a document's opening sees.
#[inline(always)]
pub(super) fn keys(document: &DocumentRows, kv_head: usize) -> impl Iterator<Item = (usize, usize)> {
    let seen = document.keys(document.opening() - 1).end;
    Places::down(document.segment.k_begin, kv_head).take(seen)
}
