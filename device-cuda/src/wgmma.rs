//! The kernels on the warpgroup's matrix unit, compute capability 9.0: faster than the others where they
//! can compute a call.

use crate::CudaError;
use crate::args::{Attention, BackwardWgmma, ForwardWgmma, KeyTile, Tile};
use crate::cuda::Cuda;
use crate::memory::Buffer;
use crate::module::Kernel;
use crate::prepared::{PART, ScratchParts, bytes_of, bytes_of_key_tile};
use crate::schedule::wgmma::Schedule;
use crate::shape::{THREADS, Warpgroups};
use crate::stream::Stream;
use crate::tensor_map::{Extent, dense};
use core::mem::size_of;
use microseq_core::Problem;

/// A problem prepared for these kernels.
pub(crate) struct Wgmma {
    problem: microseq_core::Shape,
    group: usize,
    shape: Warpgroups,
    forward: Kernel,
    prepare: Kernel,
    backward: Kernel,
    /// Blocks of the kernels that stay while there is work.
    blocks: usize,
    queries: usize,
    keys: usize,
    stats: usize,
    /// Key tiles, then query tiles of the forward pass, then of the backward pass, as bytes.
    lists: Buffer<u8>,
}

impl Wgmma {
    /// Prepares a problem where the device has the unit, the kernels compute such problems, and the
    /// device is to use them.
    pub(crate) fn new(stream: &Stream, problem: &Problem<'_>) -> Result<Option<Self>, CudaError> {
        let context = stream.context();
        let wanted = problem.shape();
        let Some(shape) = context.warpgroups(problem.attention(), wanted.dtype) else {
            return Ok(None);
        };
        let schedule = Schedule::new(problem, &shape, context.multiprocessors)?;
        let lists: Vec<u8> = schedule
            .keys
            .iter()
            .flat_map(|tile| bytes_of_key_tile(*tile))
            .chain(schedule.queries.iter().chain(&schedule.stats).flat_map(|tile| bytes_of(*tile)))
            .collect();
        let _current = context.enter()?;
        let (dtype, dim) = (wanted.dtype, shape.head_dim);
        let load = |name: String, entry: &str, shared: usize| {
            context.modules.kernel(context.driver, &name, entry, shared)
        };
        Ok(Some(Self {
            problem: wanted,
            group: problem.attention().group(),
            shape,
            forward: load(format!("forward_wgmma_{dtype}_{dim}"), "forward", shape.forward_shared)?,
            prepare: load(format!("prepare_wgmma_{dtype}"), "prepare", 0)?,
            backward: load(format!("backward_wgmma_{dtype}_{dim}"), "backward", shape.backward_shared)?,
            blocks: context.multiprocessors,
            queries: schedule.queries.len(),
            keys: schedule.keys.len(),
            stats: schedule.stats.len(),
            lists: Buffer::from_slice(stream, &lists)?,
        }))
    }

    /// Whether the copy engine can bring these operands, whose heads begin at multiples of 16 bytes.
    pub(crate) fn takes(&self, args: &Attention) -> bool {
        self.rows().fits(&args.q)
            && self.kv().fits(&args.k)
            && self.kv().fits(&args.v)
            && (args.dout.data == 0 || self.rows().fits(&args.dout))
    }

    pub(crate) fn forward(&self, device: &Cuda, args: Attention) -> Result<(), CudaError> {
        let driver = device.context().driver;
        let tokens = self.shape.forward_rows / self.group;
        let keys = self.shape.forward_keys;
        let args = ForwardWgmma {
            q: self.rows().map(driver, &args.q, self.group, tokens)?,
            k: self.kv().map(driver, &args.k, 1, keys)?,
            v: self.kv().map(driver, &args.v, 1, keys)?,
            attention: Attention {
                tiles: self.key_list() + (self.keys * size_of::<KeyTile>()) as u64,
                tile_count: self.queries as i32,
                ..args
            },
        };
        let blocks = self.blocks_for(self.queries);
        device.launch(self.forward, blocks, Warpgroups::THREADS, self.shape.forward_shared, args)
    }

    /// `begin` is where the parts of the scratch count from.
    pub(crate) fn backward(&self, device: &Cuda, args: Attention, begin: u64) -> Result<(), CudaError> {
        let driver = device.context().driver;
        let tokens = self.shape.rows / self.group;
        let parts = self.scratch_parts();
        let stats_list =
            self.key_list() + (self.keys * size_of::<KeyTile>() + self.queries * size_of::<Tile>()) as u64;
        let args = Attention {
            stats: begin,
            turns: begin + parts.turns as u64,
            dq_sum: begin + parts.dq_sum as u64,
            turn_count: (1 + self.numbers()) as i32,
            tile_rows: self.shape.rows as i32,
            ..args
        };
        let stats = Attention { tiles: stats_list, tile_count: self.stats as i32, ..args };
        device.launch(self.prepare, self.numbers(), THREADS, 0, stats)?;
        if self.keys == 0 {
            return Ok(());
        }
        let keys = self.shape.keys;
        let args = BackwardWgmma {
            q: self.rows().map(driver, &args.q, self.group, tokens)?,
            k: self.kv().map(driver, &args.k, 1, keys)?,
            v: self.kv().map(driver, &args.v, 1, keys)?,
            dout: self.rows().map(driver, &args.dout, self.group, tokens)?,
            stats: dense(driver, args.stats, self.shape.stats_len(), self.numbers())?,
            attention: Attention { tiles: self.key_list(), tile_count: self.keys as i32, ..args },
        };
        let blocks = self.blocks_for(self.keys);
        device.launch(self.backward, blocks, Warpgroups::THREADS, self.shape.backward_shared, args)
    }

    /// The parts of a backward scratch, which begins with the stats.
    pub(crate) fn scratch_parts(&self) -> ScratchParts {
        let numbers = self.numbers();
        let f32s = |each: usize| numbers * each * size_of::<f32>();
        let turns = f32s(self.shape.stats_len()).next_multiple_of(PART);
        let dq_sum = (turns + (1 + numbers) * size_of::<u32>()).next_multiple_of(PART);
        ScratchParts { turns, dq_sum, end: dq_sum + f32s(self.shape.dq_sum_len()) }
    }

    /// Query tiles of the backward pass times K/V heads.
    fn numbers(&self) -> usize {
        self.stats * self.problem.kv_heads
    }

    fn blocks_for(&self, tiles: usize) -> usize {
        self.blocks.min(tiles * self.problem.kv_heads)
    }

    fn key_list(&self) -> u64 {
        self.lists.view().address()
    }

    fn rows(&self) -> Extent {
        let microseq_core::Shape { dtype, head_dim, heads, q_rows: rows, .. } = self.problem;
        Extent { dtype, head_dim, heads, rows }
    }

    fn kv(&self) -> Extent {
        let microseq_core::Shape { dtype, head_dim, kv_heads: heads, k_rows: rows, .. } = self.problem;
        Extent { dtype, head_dim, heads, rows }
    }
}
