//! The device: checks operands, fills argument blocks, launches.

use crate::CudaError;
use crate::args::{Attention, Rows};
use crate::context::Context;
use crate::cuts::Cuts;
use crate::memory::DeviceMemory;
use crate::module::{Kernel, LoadedModule};
use crate::operand::{aligned, view_of, view_of_mut, views_of_mut};
use crate::prepared::{self, Prepared};
use crate::shape::{Shape, THREADS, Variant};
use crate::stream::Stream;
use core::ffi::c_void;
use microseq_core::{
    Accumulate, Backward, Device, Element, Flush, Forward, Gather, KvMut, KvRef, Pass, Problem, Scalar,
    Scratch, ShapeError,
};
use std::sync::Arc;

/// Blocks of the kernels that move rows: a block takes many rows where there are more.
const ROW_BLOCKS: usize = 1 << 16;

/// The CUDA device: a GPU and the stream that its calls are put on. Clones share both.
///
/// Calls return before their work is done. Work of other streams on the same memory must be ordered
/// with them, by [`Stream::wait`] say; [`Stream::synchronise`] waits on the host.
#[derive(Clone)]
pub struct Cuda {
    stream: Stream,
}

impl Cuda {
    /// A GPU by its number, with a stream of its own.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::DriverTooOld`], [`CudaError::NoDevice`],
    /// [`CudaError::DeviceTooOld`], [`CudaError::UnknownKernels`], [`CudaError::Driver`].
    pub fn new(ordinal: usize) -> Result<Self, CudaError> {
        Ok(Self { stream: Stream::new(Arc::new(Context::new(ordinal)?))? })
    }

    /// The same GPU on another stream of its own.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn with_new_stream(&self) -> Result<Self, CudaError> {
        Ok(Self { stream: Stream::new(self.stream.context().clone())? })
    }

    /// The same GPU on another stream of its own, whose work starts before that of others where both wait
    /// for room on the GPU: for transfers, which are short and waited for elsewhere.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn with_new_urgent_stream(&self) -> Result<Self, CudaError> {
        Ok(Self { stream: Stream::urgent(self.stream.context().clone())? })
    }

    /// The same GPU on a runtime's stream. This and
    /// [`DeviceRef::from_raw`](crate::DeviceRef::from_raw), [`DeviceMut::from_raw`](crate::DeviceMut::from_raw)
    /// are how the memory and the order of a runtime come in.
    ///
    /// The two default streams (null and the per-thread 0x2) are accepted; the second is that of the
    /// thread that calls.
    ///
    /// # Safety
    /// `stream` is a `CUstream` of this GPU's primary context, or a default stream, and lives until
    /// the device returned, its clones, and everything made with them are dropped.
    pub unsafe fn on_stream(&self, stream: *mut c_void) -> Self {
        Self { stream: Stream::foreign(self.stream.context().clone(), stream) }
    }

    /// The stream that calls are put on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The GPU's name.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn name(&self) -> Result<String, CudaError> {
        self.stream.context().name()
    }

    /// The modules loaded so far, and how long each took.
    pub fn loaded_modules(&self) -> Vec<LoadedModule> {
        self.stream.context().modules.list()
    }

    /// For which cuts of a document into steps `dk` and `dv` keep their bits: those at multiples of so
    /// many rows from the document's begin. 1 is every cut.
    pub fn dkv_grain(&self, problem: &microseq_core::Attention, dtype: microseq_core::DType) -> usize {
        let context = self.stream.context();
        let shape = Shape::choose(dtype, problem.head_dim(), context.shared_limit);
        let group = problem.group();
        let grain = match shape.variant {
            // One term after the other: nothing depends on tiles.
            Variant::Fma { .. } => 1,
            Variant::Mma { .. } => {
                let rows = shape.rows * grain_of(context.cuts(&shape, problem, dtype));
                rows / common_divisor(rows, group)
            }
        };
        // A call's operands choose between the two.
        match context.wgmma_backward(problem, dtype) {
            Some(wgmma) => common_multiple(grain, wgmma.rows / group * grain_of(wgmma.cuts(problem))),
            None => grain,
        }
    }

    pub(crate) fn context(&self) -> &Context {
        self.stream.context()
    }

    fn move_rows<F: Scalar, T: Scalar>(
        &self,
        kernel: Kernel,
        from: KvRef<'_, DeviceMemory, F>,
        into: KvMut<'_, DeviceMemory, T>,
    ) -> Result<(), CudaError> {
        let layout = from.k().layout();
        let rows = number("rows", layout.rows())?;
        number("heads times head_dim", layout.heads().saturating_mul(layout.head_dim()))?;
        let (heads, head_dim) = (layout.heads() as i32, layout.head_dim() as i32);
        let [(k, _), (v, _)] = views_of_mut(into);
        for (from, to) in [(view_of(from.k()), k), (view_of(from.v()), v)] {
            let args = Rows { from, to, rows, heads, head_dim, unused: 0 };
            self.launch(kernel, layout.rows().min(ROW_BLOCKS), THREADS, 0, args)?;
        }
        Ok(())
    }

    fn row_kernel(&self, name: &str, entry: &str) -> Result<Kernel, CudaError> {
        let context = self.stream.context();
        context.modules.kernel(context.driver, name, entry, 0)
    }

    fn check_prepared(&self, prepared: &Prepared) -> Result<(), CudaError> {
        let device = self.stream.context().ordinal;
        if prepared.ordinal != device {
            return Err(CudaError::PreparedForAnotherDevice { prepared: prepared.ordinal, device });
        }
        Ok(())
    }
}

impl Device for Cuda {
    type Space = DeviceMemory;
    type Error = CudaError;
    type Prepared = Prepared;

    /// Loads the modules that the problem's calls need, so that none is loaded while a graph is
    /// captured.
    fn prepare(&self, problem: &Problem<'_>) -> Result<Prepared, CudaError> {
        let prepared = Prepared::new(&self.stream, problem)?;
        let _current = self.stream.context().enter()?;
        let dtype = problem.shape().dtype;
        self.row_kernel(&format!("gather_{dtype}"), "gather")?;
        self.row_kernel(&format!("flush_{dtype}"), "flush")?;
        self.row_kernel("accumulate_f32", "accumulate")?;
        Ok(prepared)
    }

    fn scratch_bytes(&self, prepared: &Prepared, pass: Pass) -> usize {
        match pass {
            Pass::Forward => 0,
            Pass::Backward => prepared.scratch_bytes(),
        }
    }

    fn gather_into<E: Element>(&self, operands: Gather<'_, '_, DeviceMemory, E>) -> Result<(), CudaError> {
        operands.check()?;
        let _current = self.stream.context().enter()?;
        let kernel = self.row_kernel(by_dtype::<E>("gather_f32", "gather_f16", "gather_bf16"), "gather")?;
        let Gather { from, mut into } = operands;
        let mut at = 0;
        for share in from {
            let rows = at..at + share.k().layout().rows();
            at = rows.end;
            let to = into.reborrow().narrow(rows).expect("the shares fill the rows: checked above");
            self.move_rows(kernel, *share, to)?;
        }
        Ok(())
    }

    fn forward<E: Element>(
        &self,
        prepared: &Prepared,
        operands: Forward<'_, DeviceMemory, E>,
        _scratch: Scratch<'_, DeviceMemory>,
    ) -> Result<(), CudaError> {
        operands.check(&prepared.problem)?;
        self.check_prepared(prepared)?;
        let _current = self.stream.context().enter()?;
        let elements =
            [operands.q.layout(), operands.kv.k().layout(), operands.kv.v().layout(), operands.out.layout()];
        let args = Attention {
            q: view_of(operands.q),
            k: view_of(operands.kv.k()),
            v: view_of(operands.kv.v()),
            out: view_of_mut(operands.out),
            lse: view_of_mut(operands.lse),
            ..prepared.constants
        };
        let even = aligned::<E>(&[args.q, args.k, args.v, args.out], &elements);
        let args = Attention { aligned: even.into(), ..args };
        if let Some(wgmma) = prepared.wgmma_forward.as_ref().filter(|wgmma| even && wgmma.takes(&args)) {
            return wgmma.run(self, args);
        }
        let args =
            Attention { tiles: prepared.query_list(), tile_count: prepared.query_tiles as i32, ..args };
        let shape = &prepared.shape;
        let blocks = prepared.query_tiles * prepared.problem.kv_heads;
        self.launch(prepared.kernels.forward, blocks, shape.forward_threads, shape.forward_shared, args)
    }

    fn backward<E: Element>(
        &self,
        prepared: &Prepared,
        operands: Backward<'_, DeviceMemory, E>,
        scratch: Scratch<'_, DeviceMemory>,
    ) -> Result<(), CudaError> {
        operands.check(&prepared.problem)?;
        self.check_prepared(prepared)?;
        let (expected, given) =
            (prepared.scratch_bytes(), <DeviceMemory as microseq_core::Space>::len_mut(&scratch));
        if given < expected {
            return Err(ShapeError::Scratch { expected, given }.into());
        }
        let _current = self.stream.context().enter()?;
        let layout = prepared.scratch_layout();
        let begin = Prepared::scratch_begin(scratch.address());
        let elements = [
            operands.q.layout(),
            operands.kv.k().layout(),
            operands.kv.v().layout(),
            operands.out.layout(),
            operands.dout.layout(),
            operands.dq.layout(),
        ];
        let [(dk, dk_layout), (dv, dv_layout)] = views_of_mut(operands.dkv);
        let args = Attention {
            q: view_of(operands.q),
            k: view_of(operands.kv.k()),
            v: view_of(operands.kv.v()),
            out: view_of(operands.out),
            lse: view_of(operands.lse),
            dout: view_of(operands.dout),
            dq: view_of_mut(operands.dq),
            dk,
            dv,
            ..prepared.constants
        };
        let even = aligned::<E>(&[args.q, args.k, args.v, args.out, args.dout, args.dq], &elements);
        let args = Attention { aligned: even.into(), ..args };
        let even = even && aligned::<f32>(&[dk, dv], &[dk_layout, dv_layout]);
        if let Some(wgmma) = prepared.wgmma_backward.as_ref().filter(|wgmma| even && wgmma.takes(&args)) {
            return wgmma.run(self, args, begin);
        }
        let args = Attention {
            stats: begin,
            turns: begin + layout.turns as u64,
            dq_sum: begin + layout.dq_sum as u64,
            ..args
        };
        let heads = prepared.problem.kv_heads;
        let rows =
            Attention { tiles: prepared.query_list(), tile_count: prepared.query_tiles as i32, ..args };
        let keys = Attention { tiles: prepared.key_list(), tile_count: prepared.key_tiles as i32, ..args };
        let (row_blocks, key_blocks) = (prepared.query_tiles * heads, prepared.key_tiles * heads);
        self.launch(prepared.kernels.prepare, row_blocks, THREADS, 0, rows)?;
        let shape = &prepared.shape;
        match prepared.kernels.backward {
            prepared::Backward::Together(kernel) => {
                self.launch(kernel, key_blocks, shape.backward_threads, shape.backward_shared, keys)
            }
            prepared::Backward::Apart { dq, dkv } => {
                self.launch(dq, row_blocks, shape.forward_threads, shape.forward_shared, rows)?;
                self.launch(dkv, key_blocks, shape.backward_threads, shape.backward_shared, keys)
            }
        }
    }

    fn accumulate(&self, operands: Accumulate<'_, DeviceMemory>) -> Result<(), CudaError> {
        operands.check()?;
        let _current = self.stream.context().enter()?;
        let kernel = self.row_kernel("accumulate_f32", "accumulate")?;
        self.move_rows(kernel, operands.from, operands.into)
    }

    fn flush<E: Element>(&self, operands: Flush<'_, DeviceMemory, E>) -> Result<(), CudaError> {
        operands.check()?;
        let _current = self.stream.context().enter()?;
        let kernel = self.row_kernel(by_dtype::<E>("flush_f32", "flush_f16", "flush_bf16"), "flush")?;
        self.move_rows(kernel, operands.from, operands.into)
    }
}

/// A name without making one: calls allocate nothing.
fn by_dtype<E: Element>(f32: &'static str, f16: &'static str, bf16: &'static str) -> &'static str {
    match E::DTYPE {
        microseq_core::DType::F32 => f32,
        microseq_core::DType::F16 => f16,
        microseq_core::DType::Bf16 => bf16,
    }
}

fn number(what: &'static str, given: usize) -> Result<i32, CudaError> {
    i32::try_from(given).map_err(|_| CudaError::TooLarge { what, given, limit: i32::MAX as usize })
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Of tiles: their sums of dk and dv begin anew at all multiples of so many.
fn grain_of(cuts: Option<Cuts>) -> usize {
    cuts.map_or(1, |cuts| cuts.grain())
}

fn common_multiple(a: usize, b: usize) -> usize {
    a / common_divisor(a, b) * b
}
