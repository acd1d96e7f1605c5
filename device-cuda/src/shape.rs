//! The compiled variants and their tile sizes. Twin of `kernels/shape.cuh` and `kernels/shape_sm90.cuh`.

use microseq_core::{Attention, DType};

/// Which kernels compute a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Matrix units, compiled for a head_dim.
    Mma(usize),
    /// f32 arithmetic on the ordinary units.
    Fma,
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
    pub(crate) backward_shared: usize,
}

/// Threads of every kernel but forward_mma.
pub(crate) const THREADS: u32 = 256;

/// Shared memory that a kernel declares itself, besides what its launch asks for.
const STATIC_SHARED: usize = 1024;

impl Shape {
    /// The fastest variant for elements of a type, heads and a device with so much shared memory for
    /// a block.
    pub(crate) fn choose(dtype: DType, head_dim: usize, shared_limit: usize) -> Self {
        let compiled = [64, 128, 256].into_iter().find(|d| head_dim <= *d);
        match (dtype, compiled) {
            (DType::F16 | DType::Bf16, Some(compiled)) => {
                let mma = Self::mma(compiled);
                let needed = mma.backward_shared.max(mma.forward_shared) + STATIC_SHARED;
                if needed <= shared_limit { mma } else { Self::FMA }
            }
            _ => Self::FMA,
        }
    }

    const FMA: Self = Self {
        variant: Variant::Fma,
        forward_rows: 32,
        forward_threads: THREADS,
        forward_shared: 0,
        rows: 32,
        keys: 32,
        backward_shared: 0,
    };

    const fn mma(head_dim: usize) -> Self {
        const WARPS: usize = 4;
        const FORWARD_KEYS: usize = 64;
        let forward_rows = WARPS * 16 * if head_dim <= 128 { 2 } else { 1 };
        let (rows, keys, stages) = match head_dim {
            64 => (128, 128, 2),
            128 => (64, 128, 2),
            _ => (64, 64, 1),
        };
        let (key_tile, query_tile, score_tile) = (keys * head_dim * 2, rows * head_dim * 2, rows * keys * 2);
        Self {
            variant: Variant::Mma(head_dim),
            forward_rows,
            forward_threads: WARPS as u32 * 32,
            forward_shared: (forward_rows + 2 * FORWARD_KEYS) * head_dim * 2,
            rows,
            keys,
            backward_shared: 2 * key_tile + 2 * score_tile + stages * (2 * query_tile + rows * 8),
        }
    }

    /// f32 that a query tile's running dq takes.
    pub(crate) const fn dq_sum_len(&self) -> usize {
        match self.variant {
            Variant::Mma(head_dim) => self.rows * head_dim,
            Variant::Fma => 0,
        }
    }
}

/// Tile sizes of the kernels on the warpgroup's matrix unit, compute capability 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Warpgroups {
    /// What they are compiled for; smaller heads are filled up with zeros.
    pub(crate) head_dim: usize,
    /// Query rows of a tile in the forward pass, with all heads of a K/V group.
    pub(crate) forward_rows: usize,
    /// Keys of a tile in the forward pass.
    pub(crate) forward_keys: usize,
    pub(crate) forward_shared: usize,
    /// Query rows of a tile in the backward pass.
    pub(crate) rows: usize,
    /// Keys of a tile in the backward pass.
    pub(crate) keys: usize,
    pub(crate) backward_shared: usize,
}

impl Warpgroups {
    /// Threads of both kernels.
    pub(crate) const THREADS: u32 = 384;

    /// The kernels for a problem on a device that has the unit, where they can compute it.
    pub(crate) fn choose(attention: &Attention, dtype: DType) -> Option<Self> {
        let head_dim = attention.head_dim();
        let compiled = dtype != DType::F32 && (65..=128).contains(&head_dim) && head_dim.is_multiple_of(8);
        // Scores are compared before they are scaled.
        let computed = attention.scale() > 0.0 && attention.softcap().is_none();
        // A tile of queries has one token at least.
        (compiled && computed && attention.group() <= Self::D128.rows).then_some(Self::D128)
    }

    /// Up to head_dim 128.
    pub(crate) const D128: Self = {
        const FORWARD_ROWS: usize = 128;
        const ROWS: usize = 64;
        const KEYS: usize = 128;
        const DIM: usize = 128;
        let forward_barriers = 2 * 2 + 4 * 2 + 1;
        let (forward_query_tile, key_tile) = (FORWARD_ROWS * DIM * 2, KEYS * DIM * 2);
        let (query_tile, score_tile, stats) = (ROWS * DIM * 2, ROWS * KEYS * 2, ROWS * 8);
        let (stages, pieces) = (3, 2 * 80);
        let barriers = 17 + 5 * stages;
        Self {
            head_dim: DIM,
            forward_rows: FORWARD_ROWS,
            forward_keys: KEYS,
            forward_shared: 2 * forward_query_tile + 4 * key_tile + forward_barriers * 8,
            rows: ROWS,
            keys: KEYS,
            backward_shared: 3 * key_tile
                + stages * (2 * query_tile + stats)
                + 2 * score_tile
                + barriers * 8
                + pieces,
        }
    };

    /// f32 that a query tile's stats take.
    pub(crate) const fn stats_len(&self) -> usize {
        2 * self.rows
    }

    /// f32 that a query tile's running dq takes.
    pub(crate) const fn dq_sum_len(&self) -> usize {
        self.rows * self.head_dim
    }
}

// kernels/shape.cuh and kernels/shape_sm90.cuh assert the same numbers.
const _: () = {
    let (a, b, c) = (Shape::mma(64), Shape::mma(128), Shape::mma(256));
    assert!(a.forward_shared == 32_768 && a.backward_shared == 165_888);
    assert!(b.forward_shared == 65_536 && b.backward_shared == 164_864);
    assert!(c.forward_shared == 98_304 && c.backward_shared == 147_968);
    let d = Warpgroups::D128;
    assert!(d.forward_shared == 196_712 && d.backward_shared == 231_328);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warpgroups_compute_what_they_are_compiled_for() {
        let attention = |head_dim, group| Attention::new(group, 1, head_dim).expect("heads");
        let chosen = |attention: Attention, dtype| Warpgroups::choose(&attention, dtype).is_some();
        assert!(chosen(attention(128, 1), DType::Bf16) && chosen(attention(72, 64), DType::F16));
        assert!(!chosen(attention(128, 1), DType::F32));
        assert!(!chosen(attention(64, 1), DType::Bf16) && !chosen(attention(136, 1), DType::Bf16));
        assert!(!chosen(attention(100, 1), DType::Bf16) && !chosen(attention(128, 65), DType::Bf16));
        assert!(!chosen(attention(128, 1).with_softcap(1.0).expect("softcap"), DType::Bf16));
        assert!(!chosen(attention(128, 1).with_scale(-1.0).expect("scale"), DType::Bf16));
    }

    #[test]
    fn small_devices_and_large_heads_take_the_ordinary_units() {
        let choose = |dtype, head_dim, shared| Shape::choose(dtype, head_dim, shared).variant;
        assert_eq!(choose(DType::Bf16, 65, 163 * 1024), Variant::Mma(128));
        assert_eq!(choose(DType::F16, 64, 163 * 1024), Variant::Mma(64));
        assert_eq!(choose(DType::Bf16, 128, 99 * 1024), Variant::Fma);
        assert_eq!(choose(DType::Bf16, 257, 227 * 1024), Variant::Fma);
        assert_eq!(choose(DType::F32, 64, 227 * 1024), Variant::Fma);
    }
}
