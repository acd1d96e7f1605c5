//! A problem's metadata on the device, shared by all layers and both passes.

use crate::CudaError;
use crate::args::{Attention, KeyTile, STATS_BYTES, Tile, Walk};
use crate::memory::Buffer;
use crate::module::Kernel;
use crate::schedule::Schedule;
use crate::shape::{Shape, Variant};
use crate::stream::Stream;
use crate::wgmma;
use core::mem::size_of;
use microseq_core::{DType, Problem};

/// What is in a scratch begins at multiples of this: more than any access of the kernels needs.
pub(crate) const SCRATCH_ALIGNMENT: usize = 256;

/// A problem prepared for the CUDA device: tile lists in device memory, and the kernels, loaded.
pub struct Prepared {
    pub(crate) ordinal: usize,
    pub(crate) problem: microseq_core::Shape,
    pub(crate) shape: Shape,
    pub(crate) kernels: Kernels,
    /// What all calls pass: everything but addresses.
    pub(crate) constants: Attention,
    pub(crate) query_tiles: usize,
    pub(crate) key_tiles: usize,
    turns: usize,
    /// Of these and of walks.
    counters: usize,
    /// Query tiles, then key tiles, as bytes.
    tiles: Buffer<u8>,
    /// What calls use instead where they can.
    pub(crate) wgmma_forward: Option<wgmma::Forward>,
    pub(crate) wgmma_backward: Option<wgmma::Backward>,
}

/// The kernels of a problem.
pub(crate) struct Kernels {
    pub(crate) forward: Kernel,
    pub(crate) prepare: Kernel,
    pub(crate) backward: Backward,
}

/// The backward pass in one kernel or in two.
pub(crate) enum Backward {
    Together(Kernel),
    Apart { dq: Kernel, dkv: Kernel },
}

/// Where things begin in a backward scratch, in bytes, and where it ends.
pub(crate) struct ScratchLayout {
    pub(crate) turns: usize,
    pub(crate) dq_sum: usize,
    pub(crate) end: usize,
}

impl Prepared {
    pub(crate) fn new(stream: &Stream, problem: &Problem<'_>) -> Result<Self, CudaError> {
        let context = stream.context();
        let attention = problem.attention();
        let wanted = problem.shape();
        let shape = Shape::choose(wanted.dtype, wanted.head_dim, context.shared_limit);
        let cuts = context.cuts(&shape, attention, wanted.dtype);
        let schedule = Schedule::new(problem, &shape, cuts, context.multiprocessors)?;
        let kernels = {
            let _current = context.enter()?;
            Kernels::load(stream, wanted.dtype, &shape)?
        };
        let mut tiles: Vec<u8> = schedule.queries.iter().flat_map(|tile| bytes_of(*tile)).collect();
        match shape.variant {
            Variant::Mma { .. } => tiles.extend(schedule.keys.iter().flat_map(|walk| bytes_of_walk(*walk))),
            Variant::Fma { .. } => tiles.extend(schedule.keys.iter().flat_map(|walk| bytes_of(walk.tile))),
        }
        let constants = Attention {
            rows: wanted.q_rows as i32,
            group: attention.group() as i32,
            kv_heads: wanted.kv_heads as i32,
            head_dim: wanted.head_dim as i32,
            causal: attention.mask().causal.into(),
            window: attention.mask().window.map_or(i32::MAX, |w| i32::try_from(w.get()).unwrap_or(i32::MAX)),
            scale: attention.scale(),
            softcap: attention.softcap().unwrap_or(0.0),
            tile_rows: shape.forward_rows as i32,
            turn_count: (1 + schedule.counters * wanted.kv_heads) as i32,
            ..Attention::default()
        };
        Ok(Self {
            ordinal: context.ordinal,
            problem: wanted,
            shape,
            kernels,
            constants,
            query_tiles: schedule.queries.len(),
            key_tiles: schedule.keys.len(),
            turns: schedule.turns * wanted.kv_heads,
            counters: schedule.counters * wanted.kv_heads,
            tiles: Buffer::from_slice(stream, &tiles)?,
            wgmma_forward: wgmma::Forward::new(stream, problem)?,
            wgmma_backward: wgmma::Backward::new(stream, problem)?,
        })
    }

    /// Address of the query tiles.
    pub(crate) fn query_list(&self) -> u64 {
        self.tiles.view().address()
    }

    /// Address of the key tiles.
    pub(crate) fn key_list(&self) -> u64 {
        self.query_list() + (self.query_tiles * size_of::<Tile>()) as u64
    }

    /// What a backward scratch holds; it begins with the stats.
    pub(crate) fn scratch_layout(&self) -> ScratchLayout {
        let stats = self.problem.heads * self.problem.q_rows * STATS_BYTES;
        let turns = stats.next_multiple_of(SCRATCH_ALIGNMENT);
        let dq_sum = (turns + (1 + self.counters) * size_of::<u32>()).next_multiple_of(SCRATCH_ALIGNMENT);
        let end = dq_sum + self.turns * self.shape.dq_sum_len() * size_of::<f32>();
        ScratchLayout { turns, dq_sum, end }
    }

    /// Bytes of a backward scratch of any alignment.
    pub(crate) fn scratch_bytes(&self) -> usize {
        let wgmma = self.wgmma_backward.as_ref().map_or(0, |wgmma| wgmma.scratch_layout().end);
        self.scratch_layout().end.max(wgmma) + SCRATCH_ALIGNMENT - 1
    }

    /// The first address in a scratch that its layout can count from.
    pub(crate) fn scratch_begin(address: u64) -> u64 {
        address.next_multiple_of(SCRATCH_ALIGNMENT as u64)
    }
}

impl Kernels {
    fn load(stream: &Stream, dtype: DType, shape: &Shape) -> Result<Self, CudaError> {
        let context = stream.context();
        let load = |name: String, entry: &str, shared: usize| {
            context.modules.kernel(context.driver, &name, entry, shared)
        };
        let prepare = load(format!("prepare_{dtype}"), "prepare", 0)?;
        Ok(match shape.variant {
            Variant::Mma { head_dim: d, small } => Self {
                forward: load(format!("forward_mma_{dtype}_{d}"), "forward", shape.forward_shared)?,
                prepare,
                backward: Backward::Together(load(
                    format!("backward_mma_{}{dtype}_{d}", if small { "small_" } else { "" }),
                    "backward",
                    shape.backward_shared,
                )?),
            },
            Variant::Fma { head_dim: d } => Self {
                forward: load(format!("forward_fma_{dtype}_{d}"), "forward", shape.forward_shared)?,
                prepare,
                backward: Backward::Apart {
                    dq: load(format!("backward_dq_fma_{dtype}_{d}"), "backward_dq", shape.forward_shared)?,
                    dkv: load(
                        format!("backward_dkv_fma_{dtype}_{d}"),
                        "backward_dkv",
                        shape.backward_shared,
                    )?,
                },
            },
        })
    }
}

pub(crate) fn bytes_of(tile: Tile) -> impl Iterator<Item = u8> {
    let Tile { query_row, queries, key_row, keys, begin, first_turn } = tile;
    [query_row, queries, key_row, keys, begin, first_turn].into_iter().flat_map(i32::to_ne_bytes)
}

pub(crate) fn bytes_of_walk(walk: Walk) -> impl Iterator<Item = u8> {
    let Walk { tile, begin, end, number, before } = walk;
    bytes_of(tile).chain([begin, end, number, before].into_iter().flat_map(i32::to_ne_bytes))
}

pub(crate) fn bytes_of_key_tile(tile: KeyTile) -> impl Iterator<Item = u8> {
    // Every field by name, so that none is forgotten.
    #[rustfmt::skip]
    let KeyTile {
        key_row, keys, key, position_row, row_begin, row_end, begin, end, first_begin, first_end, last_end,
        whole_begin, whole_end, seen_begin, sums, number, walk, before, after,
    } = tile;
    [key_row, keys, key, position_row, row_begin, row_end, begin, end, first_begin, first_end, last_end]
        .into_iter()
        .chain(whole_begin)
        .chain(whole_end)
        .chain(seen_begin)
        .chain([sums, number, walk, before, after])
        .flat_map(i32::to_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    fn word(offset: usize) -> i32 {
        (offset / 4) as i32
    }

    #[test]
    fn key_tiles_are_written_as_the_kernels_read_them() {
        macro_rules! words {
            ($($field:ident)*) => {
                KeyTile {
                    whole_begin: [0, 1].map(|half| word(offset_of!(KeyTile, whole_begin)) + half),
                    whole_end: [0, 1].map(|half| word(offset_of!(KeyTile, whole_end)) + half),
                    seen_begin: [0, 1].map(|half| word(offset_of!(KeyTile, seen_begin)) + half),
                    $($field: word(offset_of!(KeyTile, $field)),)*
                }
            };
        }
        let tile = words! {
            key_row keys key position_row row_begin row_end begin end first_begin first_end last_end sums number
            walk before after
        };
        let expected: Vec<u8> = (0..size_of::<KeyTile>() as i32 / 4).flat_map(i32::to_ne_bytes).collect();
        assert_eq!(bytes_of_key_tile(tile).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn walks_are_written_as_the_kernels_read_them() {
        let tile = Tile { query_row: 0, queries: 1, key_row: 2, keys: 3, begin: 4, first_turn: 5 };
        let walk = Walk { tile, begin: 6, end: 7, number: 8, before: 9 };
        let place = |offset: usize| offset as i32 / 4;
        assert_eq!(place(offset_of!(Walk, tile)), 0);
        assert_eq!([offset_of!(Walk, begin), offset_of!(Walk, end)].map(place), [6, 7]);
        assert_eq!([offset_of!(Walk, number), offset_of!(Walk, before)].map(place), [8, 9]);
        let expected: Vec<u8> = (0..10_i32).flat_map(i32::to_ne_bytes).collect();
        assert_eq!(bytes_of_walk(walk).collect::<Vec<_>>(), expected);
    }
}
