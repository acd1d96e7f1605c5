//! The kernels on the warpgroup's matrix unit, compute capability 9.0: faster than the others where they
//! can compute a call. `None` is where the device lacks the unit, or they do not compute such problems.

use crate::CudaError;
use crate::args::{Attention, BackwardWgmma, ForwardWgmma, KeyTile, TensorMap, Tile};
use crate::cuda::Cuda;
use crate::memory::Buffer;
use crate::module::Kernel;
use crate::prepared::{SCRATCH_ALIGNMENT, ScratchLayout, bytes_of, bytes_of_key_tile};
use crate::schedule::wgmma as schedule;
use crate::shape::{PREPARE_ROWS, PREPARE_THREADS, WgmmaBackward, WgmmaForward};
use crate::stream::Stream;
use crate::tensor_map::{Extent, dense};
use core::mem::size_of;
use microseq_core::Problem;

/// What both passes know of a problem.
struct Operands {
    q: Extent,
    kv: Extent,
    group: usize,
}

impl Operands {
    fn new(problem: &Problem<'_>) -> Self {
        let microseq_core::Shape { dtype, head_dim, heads, kv_heads, q_rows, k_rows } = problem.shape();
        Self {
            q: Extent { dtype, head_dim, heads, rows: q_rows },
            kv: Extent { dtype, head_dim, heads: kv_heads, rows: k_rows },
            group: problem.attention().group(),
        }
    }
}

/// A problem prepared for `forward_wgmma`.
pub(crate) struct Forward {
    operands: Operands,
    shape: WgmmaForward,
    kernel: Kernel,
    tiles: usize,
    /// Blocks that stay while there is work: as many as run at a time.
    blocks: usize,
    /// Tiles, then shares, as bytes.
    lists: Buffer<u8>,
}

impl Forward {
    pub(crate) fn new(stream: &Stream, problem: &Problem<'_>) -> Result<Option<Self>, CudaError> {
        let (context, dtype) = (stream.context(), problem.shape().dtype);
        let Some(shape) = context.wgmma_forward(problem.attention(), dtype) else { return Ok(None) };
        let schedule::Forward { tiles, blocks, shares } =
            schedule::Forward::new(problem, &shape, context.multiprocessors)?;
        let shares = shares.into_iter().flat_map(i32::to_ne_bytes);
        let lists: Vec<u8> = tiles.iter().flat_map(|tile| bytes_of(*tile)).chain(shares).collect();
        let _current = context.enter()?;
        let name = format!("forward_wgmma_{dtype}_{}", shape.head_dim);
        let kernel = context.modules.kernel(context.driver, &name, "forward", shape.shared)?;
        let (operands, lists) = (Operands::new(problem), Buffer::from_slice(stream, &lists)?);
        Ok(Some(Self { operands, shape, kernel, tiles: tiles.len(), blocks, lists }))
    }

    /// Whether the copy engine can bring these operands, whose heads begin at multiples of 16 bytes.
    pub(crate) fn takes(&self, args: &Attention) -> bool {
        let Operands { q, kv, .. } = &self.operands;
        q.fits(&args.q) && kv.fits(&args.k) && kv.fits(&args.v)
    }

    pub(crate) fn run(&self, device: &Cuda, args: Attention) -> Result<(), CudaError> {
        let driver = device.context().driver;
        let Operands { q, kv, group, .. } = &self.operands;
        let (tokens, keys) = (self.shape.rows / group, self.shape.keys);
        let list = self.lists.view().address();
        let args = ForwardWgmma {
            shares: list + (self.tiles * size_of::<Tile>()) as u64,
            q: q.map(driver, &args.q, *group, tokens)?,
            k: kv.map(driver, &args.k, 1, keys)?,
            v: kv.map(driver, &args.v, 1, keys)?,
            attention: Attention { tiles: list, tile_count: self.tiles as i32, ..args },
        };
        device.launch(self.kernel, self.blocks, self.shape.threads, self.shape.shared, args)
    }
}

/// A problem prepared for `prepare_wgmma` and `backward_wgmma`.
pub(crate) struct Backward {
    operands: Operands,
    shape: WgmmaBackward,
    prepare: Kernel,
    kernel: Kernel,
    keys: usize,
    /// As many blocks as run at a time.
    blocks: usize,
    /// Query tiles.
    stats: usize,
    /// Of query tiles and walks, for each K/V head.
    counters: usize,
    /// Key tiles, then query tiles, as bytes.
    lists: Buffer<u8>,
}

impl Backward {
    pub(crate) fn new(stream: &Stream, problem: &Problem<'_>) -> Result<Option<Self>, CudaError> {
        let (context, dtype) = (stream.context(), problem.shape().dtype);
        let Some(shape) = context.wgmma_backward(problem.attention(), dtype) else { return Ok(None) };
        let schedule::Backward { keys, counters, stats } =
            schedule::Backward::new(problem, &shape, context.multiprocessors)?;
        let key_tiles = keys.iter().flat_map(|tile| bytes_of_key_tile(*tile));
        let query_tiles = stats.iter().flat_map(|tile| bytes_of(*tile));
        let lists: Vec<u8> = key_tiles.chain(query_tiles).collect();
        let _current = context.enter()?;
        let load = |name: String, entry: &str, shared: usize| {
            context.modules.kernel(context.driver, &name, entry, shared)
        };
        let name = format!("backward_wgmma_{dtype}_{}", shape.head_dim);
        Ok(Some(Self {
            operands: Operands::new(problem),
            shape,
            prepare: load(format!("prepare_wgmma_{dtype}"), "prepare", 0)?,
            kernel: load(name, "backward", shape.shared)?,
            keys: keys.len(),
            blocks: context.multiprocessors.min(keys.len() * problem.attention().kv_heads()),
            stats: stats.len(),
            counters,
            lists: Buffer::from_slice(stream, &lists)?,
        }))
    }

    /// Whether the copy engine can bring these operands, whose heads begin at multiples of 16 bytes.
    pub(crate) fn takes(&self, args: &Attention) -> bool {
        let Operands { q, kv, .. } = &self.operands;
        let gradients = || [&args.dk, &args.dv].into_iter().all(|view| kv.gradient().fits(view));
        q.fits(&args.q)
            && q.fits(&args.dout)
            && kv.fits(&args.k)
            && kv.fits(&args.v)
            && (!self.shape.stages_gradients() || gradients())
    }

    /// `begin` is where the layout of the scratch counts from.
    pub(crate) fn run(&self, device: &Cuda, args: Attention, begin: u64) -> Result<(), CudaError> {
        let driver = device.context().driver;
        let Operands { q, kv, group, .. } = &self.operands;
        let layout = self.scratch_layout();
        let lists = self.lists.view().address();
        let args = Attention {
            stats: begin,
            turns: begin + layout.turns as u64,
            dq_sum: begin + layout.dq_sum as u64,
            turn_count: self.turn_count() as i32,
            tile_rows: self.shape.rows as i32,
            ..args
        };
        let stats = Attention {
            tiles: lists + (self.keys * size_of::<KeyTile>()) as u64,
            tile_count: self.stats as i32,
            ..args
        };
        let blocks = self.numbers() * (self.shape.rows / PREPARE_ROWS);
        device.launch(self.prepare, blocks, PREPARE_THREADS, 0, stats)?;
        if self.keys == 0 {
            return Ok(());
        }
        let (tokens, keys) = (self.shape.rows / group, self.shape.keys);
        let gradient = |view| match self.shape.stages_gradients() {
            true => kv.gradient().map(driver, view, 1, keys),
            false => Ok(TensorMap::default()),
        };
        let args = BackwardWgmma {
            q: q.map(driver, &args.q, *group, tokens)?,
            k: kv.map(driver, &args.k, 1, keys)?,
            v: kv.map(driver, &args.v, 1, keys)?,
            dout: q.map(driver, &args.dout, *group, tokens)?,
            stats: dense(driver, args.stats, self.shape.stats_len(), self.numbers())?,
            dk: gradient(&args.dk)?,
            dv: gradient(&args.dv)?,
            attention: Attention { tiles: lists, tile_count: self.keys as i32, ..args },
        };
        device.launch(self.kernel, self.blocks, self.shape.threads, self.shape.shared, args)
    }

    /// What a backward scratch holds; it begins with the stats.
    pub(crate) fn scratch_layout(&self) -> ScratchLayout {
        let numbers = self.numbers();
        let f32s = |each: usize| numbers * each * size_of::<f32>();
        let turns = f32s(self.shape.stats_len()).next_multiple_of(SCRATCH_ALIGNMENT);
        let dq_sum = (turns + self.turn_count() * size_of::<u32>()).next_multiple_of(SCRATCH_ALIGNMENT);
        ScratchLayout { turns, dq_sum, end: dq_sum + f32s(self.shape.dq_sum_len()) }
    }

    /// The ticket, and counters of query tiles and walks.
    fn turn_count(&self) -> usize {
        1 + self.counters * self.operands.kv.heads
    }

    /// Query tiles times K/V heads.
    fn numbers(&self) -> usize {
        self.stats * self.operands.kv.heads
    }
}
