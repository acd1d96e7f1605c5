//! The compiled variants and their tile sizes. Twin of `kernels/shape.cuh` and `kernels/shape_sm90.cuh`.

use crate::args::KeyTile;
use crate::cuts::{Cuts, has_few_walks};
use microseq_core::{Attention, DType, MAX_HEAD_DIM};

/// Which kernels compute a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Matrix units, compiled for a head_dim; in the backward pass with smaller tiles for devices whose blocks have
    /// little shared memory.
    Mma { head_dim: usize, small: bool },
    /// f32 arithmetic on the ordinary units, compiled for a head_dim.
    Fma { head_dim: usize },
}

/// Tile sizes of a variant, and the shared memory that its launches ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) variant: Variant,
    pub(crate) forward_rows: usize,
    pub(crate) forward_threads: u32,
    pub(crate) forward_shared: usize,
    /// Query rows of a tile in the backward pass.
    pub(crate) rows: usize,
    /// Keys of a tile in the backward pass.
    pub(crate) keys: usize,
    pub(crate) backward_threads: u32,
    pub(crate) backward_shared: usize,
}

/// Threads of every kernel for which nothing else is said.
pub(crate) const THREADS: u32 = 256;

/// Bytes of shared memory that a block may have on compute capability 8.6, 8.9 and 12.0.
pub(crate) const LITTLE_SHARED: usize = 99 * 1024;

/// Shared memory that a kernel declares itself, besides what its launch asks for.
const STATIC_SHARED: usize = 1024;

impl Shape {
    /// The fastest variant for elements of a type, heads and a device with so much shared memory for
    /// a block.
    pub(crate) fn choose(dtype: DType, head_dim: usize, shared_limit: usize) -> Self {
        let compiled = [64, 128, 256].into_iter().find(|d| head_dim <= *d);
        match (dtype, compiled) {
            (DType::F16 | DType::Bf16, Some(compiled)) => {
                let needed = |shape: &Self| shape.backward_shared.max(shape.forward_shared) + STATIC_SHARED;
                let mut by_size = [false, true].into_iter().map(|small| Self::mma(compiled, small));
                by_size.find(|shape| needed(shape) <= shared_limit).unwrap_or(Self::fma(MAX_HEAD_DIM))
            }
            (DType::F32, Some(compiled)) => Self::fma(compiled.max(128)),
            _ => Self::fma(MAX_HEAD_DIM),
        }
    }

    /// Square tiles of scores; of the backward pass, dk and dv take more shared memory than dq, which takes what the
    /// forward pass does.
    const fn fma(head_dim: usize) -> Self {
        const SLICE_PITCH: usize = 64 + 4;
        let rows = if head_dim <= 256 { 64 } else { 32 };
        let score_tile = (rows + 4) * rows * 4;
        let forward_shared = 2 * SLICE_PITCH * rows * 4 + score_tile;
        Self {
            variant: Variant::Fma { head_dim },
            forward_rows: rows,
            forward_threads: THREADS,
            forward_shared,
            rows,
            keys: rows,
            backward_threads: THREADS,
            backward_shared: forward_shared + score_tile,
        }
    }

    const fn mma(head_dim: usize, small: bool) -> Self {
        const WARPS: usize = 4;
        const FORWARD_KEYS: usize = 64;
        let forward_rows = WARPS * 16 * if head_dim <= 128 { 2 } else { 1 };
        let (rows, keys, stages, warps) = match (head_dim, small) {
            (64, false) => (128, 128, 2, 8),
            (128, false) => (64, 128, 2, 8),
            (_, false) => (64, 64, 1, 8),
            (64, true) => (64, 128, 2, 8),
            (128, true) => (32, 128, 1, 8),
            (_, true) => (32, 32, 1, 4),
        };
        let (key_tile, query_tile, score_tile) = (keys * head_dim * 2, rows * head_dim * 2, rows * keys * 2);
        Self {
            variant: Variant::Mma { head_dim, small },
            forward_rows,
            forward_threads: WARPS as u32 * 32,
            forward_shared: (forward_rows + 2 * FORWARD_KEYS) * head_dim * 2,
            rows,
            keys,
            backward_threads: warps * 32,
            backward_shared: 2 * key_tile + 2 * score_tile + stages * (2 * query_tile + rows * 8),
        }
    }

    /// Where walks are cut: with few heads, and if tiles hold whole tokens, or parts would begin with one at places far
    /// apart, where few cut their sequences into steps.
    pub(crate) fn cuts(&self, attention: &Attention) -> Option<Cuts> {
        let whole_tokens = self.rows.is_multiple_of(attention.group());
        let mma = matches!(self.variant, Variant::Mma { .. });
        let cut = has_few_walks(attention) && whole_tokens && mma;
        cut.then(|| Cuts::new(attention, self.rows))
    }

    /// f32 that a query tile's running dq takes.
    pub(crate) const fn dq_sum_len(&self) -> usize {
        match self.variant {
            Variant::Mma { head_dim, .. } => self.rows * head_dim,
            Variant::Fma { .. } => 0,
        }
    }
}

/// Threads of a warpgroup. The kernels on its matrix unit, compute capability 9.0, have some that compute and
/// one that serves them.
const WARPGROUP: u32 = 128;

/// Threads of `prepare_wgmma`, and the rows of a block.
pub(crate) const PREPARE_THREADS: u32 = 128;
pub(crate) const PREPARE_ROWS: usize = 32;

/// Tile sizes of `forward_wgmma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WgmmaForward {
    /// What it is compiled for; smaller heads are filled up with zeros.
    pub(crate) head_dim: usize,
    /// Query rows of a tile, with all heads of a K/V group.
    pub(crate) rows: usize,
    pub(crate) keys: usize,
    pub(crate) threads: u32,
    pub(crate) shared: usize,
}

/// Tile sizes of `backward_wgmma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WgmmaBackward {
    pub(crate) head_dim: usize,
    pub(crate) rows: usize,
    pub(crate) keys: usize,
    pub(crate) threads: u32,
    pub(crate) shared: usize,
}

impl WgmmaForward {
    /// The kernel for a problem on a device that has the unit, where it can compute it.
    pub(crate) fn choose(attention: &Attention, dtype: DType) -> Option<Self> {
        if !wgmma_computes(attention, dtype) {
            return None;
        }
        [64, 96, 128, 192, 256].into_iter().find(|dim| attention.head_dim() <= *dim).map(Self::compiled)
    }

    pub(crate) const fn compiled(head_dim: usize) -> Self {
        // Three warpgroups of 64 rows each where registers suffice, else two.
        let groups = if head_dim <= 64 { 3 } else { 2 };
        let (rows, panels) = (groups * 64, head_dim.div_ceil(64));
        let (keys, query_stages) = match head_dim {
            ..=128 => (128, 2),
            129..=192 => (96, 1),
            _ => (64, 1),
        };
        let barriers = 2 * query_stages + 4 * 2 + 1;
        let shared = (query_stages * rows + 4 * keys) * panels * PANEL_BYTES + barriers * 8;
        Self { head_dim, rows, keys, threads: (groups as u32 + 1) * WARPGROUP, shared }
    }
}

impl WgmmaBackward {
    /// As [`WgmmaForward::choose`].
    pub(crate) fn choose(attention: &Attention, dtype: DType) -> Option<Self> {
        if !wgmma_computes(attention, dtype) {
            return None;
        }
        [64, 96, 128, 192, 256].into_iter().find(|dim| attention.head_dim() <= *dim).map(Self::compiled)
    }

    pub(crate) const fn compiled(head_dim: usize) -> Self {
        // Warpgroups own 64 keys each, or share them.
        let own_keys = head_dim <= 128;
        let (rows, keys, panels) = (64, if own_keys { 128 } else { 64 }, head_dim.div_ceil(64));
        let (stages, pieces, adders) = (2, 2 * PIECE_BYTES, 3);
        let key_stages = if own_keys { 2 } else { 1 };
        let dout_stages = if head_dim <= 192 { 2 } else { 1 };
        let (key_tile, query_tile) = (keys * panels * PANEL_BYTES, rows * panels * PANEL_BYTES);
        let (score_tile, stats) = (rows * keys * 2, rows * 8);
        let (dq_room, dq_rounds) = if own_keys { (2 * query_tile, 1) } else { (rows * 128 * 4, 2) };
        let p_tile = if own_keys { 0 } else { 2 * score_tile };
        let dkv_staged = head_dim <= 64;
        let dkv_room = if dkv_staged { 2 * keys * head_dim * 4 } else { 0 };
        let tiles = (key_stages + 1) * key_tile
            + (stages + dout_stages) * query_tile
            + stages * (score_tile + stats)
            + dq_room
            + p_tile
            + dkv_room;
        let dkv_barriers = if dkv_staged { 2 } else { 0 };
        let barriers = if own_keys { 3 } else { 5 }
            + 8 * stages
            + 2 * dout_stages
            + 3 * adders * dq_rounds
            + dkv_barriers;
        Self { head_dim, rows, keys, threads: 3 * WARPGROUP, shared: tiles + barriers * 8 + pieces }
    }

    /// Whether the copy engine brings a piece's dk and dv, beside which there is room for them.
    pub(crate) const fn stages_gradients(&self) -> bool {
        self.head_dim <= 64
    }

    /// Where walks are cut: with few heads, and in windows, where blocks would be all over the step and what they share
    /// would not fit the device's cache.
    pub(crate) fn cuts(&self, attention: &Attention) -> Option<Cuts> {
        let cut = has_few_walks(attention) || attention.mask().window.is_some();
        cut.then(|| Cuts::new(attention, self.rows))
    }

    /// f32 that a query tile's stats take.
    pub(crate) const fn stats_len(&self) -> usize {
        2 * self.rows
    }

    /// f32 that a query tile's running dq takes.
    pub(crate) const fn dq_sum_len(&self) -> usize {
        self.rows * self.head_dim.next_multiple_of(64)
    }
}

/// What the warpgroups of the backward pass need to know of a piece.
const PIECE_BYTES: usize = size_of::<KeyTile>() + 8 + 2 * 16;

/// Bytes of a row of 64 elements, of which tiles are made (`kernels/panel.cuh`).
const PANEL_BYTES: usize = 128;

fn wgmma_computes(attention: &Attention, dtype: DType) -> bool {
    // Rows of tensor maps and of out are moved 16 bytes at a time.
    let moved = dtype != DType::F32 && attention.head_dim().is_multiple_of(8);
    // Scores are compared before they are scaled.
    let scored = attention.scale() > 0.0 && attention.softcap().is_none();
    // A tile of queries has one token at least.
    moved && scored && attention.group() <= WgmmaBackward::compiled(64).rows
}

// kernels/shape.cuh and kernels/shape_sm90.cuh assert the same numbers.
const _: () = {
    let (a, b, c) = (Shape::mma(64, false), Shape::mma(128, false), Shape::mma(256, false));
    assert!(a.forward_shared == 32_768 && a.backward_shared == 165_888);
    assert!(b.forward_shared == 65_536 && b.backward_shared == 164_864);
    assert!(c.forward_shared == 98_304 && c.backward_shared == 147_968);
    let (a, b, c) = (Shape::mma(64, true), Shape::mma(128, true), Shape::mma(256, true));
    assert!(a.backward_shared == 99_328 && b.backward_shared == 98_560 && c.backward_shared == 69_888);
    let (a, b) = (Shape::fma(128), Shape::fma(MAX_HEAD_DIM));
    assert!(a.forward_shared == 52_224 && a.backward_shared == 69_632);
    assert!(b.forward_shared == 22_016 && b.backward_shared == 26_624 && MAX_HEAD_DIM == 512);
    const fn forward(head_dim: usize, shared: usize) -> bool {
        WgmmaForward::compiled(head_dim).shared == shared
    }
    const fn backward(head_dim: usize, shared: usize) -> bool {
        WgmmaBackward::compiled(head_dim).shared == shared
    }
    assert!(forward(64, 114_792) && forward(96, 196_712) && forward(128, 196_712));
    assert!(forward(192, 196_696) && forward(256, 196_696));
    assert!(backward(64, 198_160) && backward(96, 230_912) && backward(128, 230_912));
    assert!(backward(192, 214_616) && backward(256, 230_984));
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warpgroups_compute_what_they_are_compiled_for() {
        let attention = |head_dim, group| Attention::new(group, 1, head_dim).expect("heads");
        let forward =
            |attention: Attention, dtype| WgmmaForward::choose(&attention, dtype).map(|s| s.head_dim);
        let backward =
            |attention: Attention| WgmmaBackward::choose(&attention, DType::F16).map(|s| s.head_dim);
        let chosen = [8, 64, 72, 104, 136, 200, 256, 264].map(|d| forward(attention(d, 1), DType::Bf16));
        assert_eq!(chosen, [64, 64, 96, 128, 192, 256, 256, 0].map(|d| Some(d).filter(|d| *d > 0)));
        let chosen = [8, 64, 72, 104, 136, 200, 256, 264].map(|d| backward(attention(d, 64)));
        assert_eq!(chosen, [64, 64, 96, 128, 192, 256, 256, 0].map(|d| Some(d).filter(|d| *d > 0)));
        assert_eq!(forward(attention(128, 1), DType::F32), None);
        assert_eq!(forward(attention(100, 1), DType::Bf16), None);
        assert_eq!(backward(attention(128, 65)), None);
        assert_eq!(backward(attention(128, 1).with_softcap(1.0).expect("softcap")), None);
        assert_eq!(forward(attention(128, 1).with_scale(-1.0).expect("scale"), DType::Bf16), None);
    }

    #[test]
    fn blocks_with_little_memory_take_small_tiles_and_large_heads_the_ordinary_units() {
        let choose = |dtype, head_dim, shared| Shape::choose(dtype, head_dim, shared).variant;
        let mma = |head_dim, small| Variant::Mma { head_dim, small };
        assert_eq!(choose(DType::Bf16, 65, 163 * 1024), mma(128, false));
        assert_eq!(choose(DType::F16, 64, 163 * 1024), mma(64, false));
        for head_dim in [64, 128, 256] {
            assert_eq!(choose(DType::Bf16, head_dim, LITTLE_SHARED), mma(head_dim, true));
        }
        let fma = |head_dim| Variant::Fma { head_dim };
        assert_eq!(choose(DType::Bf16, 128, 64 * 1024), fma(512));
        assert_eq!(choose(DType::Bf16, 257, 227 * 1024), fma(512));
        let f32s = [1, 64, 128, 129, 256, 257, 512].map(|head_dim| choose(DType::F32, head_dim, 227 * 1024));
        assert_eq!(f32s, [128, 128, 128, 256, 256, 512, 512].map(fma));
    }
}
