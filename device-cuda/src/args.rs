//! What the kernels are passed. Twin of `kernels/args.cuh`: same names, same order, same sizes.

use core::mem::size_of;

/// A strided matrix of rows and heads; strides count elements.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct View {
    pub(crate) data: u64,
    pub(crate) row_stride: i64,
    pub(crate) head_stride: i64,
}
const _: () = assert!(size_of::<View>() == 24);

/// A piece of one document, the unit of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Tile {
    pub(crate) query_row: i32,
    pub(crate) queries: i32,
    pub(crate) key_row: i32,
    pub(crate) keys: i32,
    pub(crate) begin: i32,
    pub(crate) first_turn: i32,
}
const _: () = assert!(size_of::<Tile>() == 24);

/// A tile of a document's keys and the query tiles that see some of it, for `backward_mma`: the walk over these, or a
/// part of it (`schedule/parts.rs`). `number` is -1 where it is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Walk {
    pub(crate) tile: Tile,
    pub(crate) begin: i32,
    pub(crate) end: i32,
    pub(crate) number: i32,
    pub(crate) before: i32,
}
const _: () = assert!(size_of::<Walk>() == 40);

/// A tile of a document's keys and the query tiles that see some of it, for the kernels of compute
/// capability 9.0, whose query tiles are whole tokens: tile `t` holds the queries at positions
/// `t * tokens` to `(t + 1) * tokens`. The walk over these query tiles may be cut into several parts, from
/// the last to the first (`schedule/parts.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct KeyTile {
    pub(crate) key_row: i32,
    pub(crate) keys: i32,
    pub(crate) key: i32,
    pub(crate) position_row: i32,
    pub(crate) row_begin: i32,
    pub(crate) row_end: i32,
    pub(crate) begin: i32,
    pub(crate) end: i32,
    pub(crate) first_begin: i32,
    pub(crate) first_end: i32,
    pub(crate) last_end: i32,
    pub(crate) whole_begin: [i32; 2],
    pub(crate) whole_end: [i32; 2],
    pub(crate) seen_begin: [i32; 2],
    pub(crate) sums: i32,
    pub(crate) number: i32,
    pub(crate) walk: i32,
    pub(crate) before: i32,
    pub(crate) after: i32,
}
const _: () = assert!(size_of::<KeyTile>() == 88);

/// How the sums dk and dv of a `KeyTile` begin, and how they come to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DkvSums {
    /// They go on with what the store holds.
    Continued = 0,
    /// They begin with zero and take the place of what the store holds, which is zero too.
    FromZero = 1,
    /// They begin with zero and are added to what the store holds.
    Added = 2,
}

/// Arguments of every attention kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Attention {
    pub(crate) q: View,
    pub(crate) k: View,
    pub(crate) v: View,
    pub(crate) out: View,
    pub(crate) dout: View,
    pub(crate) dq: View,
    pub(crate) dk: View,
    pub(crate) dv: View,
    pub(crate) lse: View,
    pub(crate) stats: u64,
    pub(crate) dq_sum: u64,
    pub(crate) turns: u64,
    pub(crate) tiles: u64,
    pub(crate) tile_count: i32,
    pub(crate) turn_count: i32,
    pub(crate) rows: i32,
    pub(crate) group: i32,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) causal: i32,
    pub(crate) window: i32,
    pub(crate) aligned: i32,
    pub(crate) scale: f32,
    pub(crate) softcap: f32,
    pub(crate) tile_rows: i32,
}
const _: () = assert!(size_of::<Attention>() == 296);

/// Bytes of `Stats`, what the backward keeps of a query row.
pub(crate) const STATS_BYTES: usize = 8;

/// Arguments of the kernels that move rows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Rows {
    pub(crate) from: View,
    pub(crate) to: View,
    pub(crate) rows: i32,
    pub(crate) heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) unused: i32,
}
const _: () = assert!(size_of::<Rows>() == 64);

/// What the driver encodes a strided tensor into, for the copy engine; opaque. `tensor_map.rs` makes it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct TensorMap(pub(crate) [u64; 16]);
const _: () = assert!(size_of::<TensorMap>() == 128);

/// Arguments of `forward_wgmma`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct ForwardWgmma {
    pub(crate) attention: Attention,
    /// Which block works on what (`schedule/shares.rs`).
    pub(crate) shares: u64,
    pub(crate) q: TensorMap,
    pub(crate) k: TensorMap,
    pub(crate) v: TensorMap,
}
const _: () = assert!(size_of::<ForwardWgmma>() == 704);

/// Arguments of `backward_wgmma`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct BackwardWgmma {
    pub(crate) attention: Attention,
    pub(crate) q: TensorMap,
    pub(crate) k: TensorMap,
    pub(crate) v: TensorMap,
    pub(crate) dout: TensorMap,
    pub(crate) stats: TensorMap,
    pub(crate) dk: TensorMap,
    pub(crate) dv: TensorMap,
}
const _: () = assert!(size_of::<BackwardWgmma>() == 1216);
