//! The device: checks operands, then hands blocks of work to the threads.

use crate::copy::zip_rows;
use crate::dispatch;
use crate::kernel::softmax::Scoring;
use crate::kernel::{backward, forward};
use crate::scratch::{self, Carver};
use crate::strided::{StridedMut, StridedRef};
use crate::threads::{Queue, Threads};
use crate::{CpuError, Isa, Prepared};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use microseq_core::{
    Accumulate, Backward, Device, Element, Flush, Forward, Gather, Host, Pass, Problem, Scratch, ShapeError,
};

/// The CPU device.
///
/// A small handle: threads and an instruction set. It holds no memory between calls.
///
/// ```
/// use microseq_cpu::Cpu;
/// let cpu = Cpu::with_threads(2)?;
/// println!("{} threads, {}", cpu.threads(), cpu.isa());
/// # Ok::<(), microseq_cpu::CpuError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cpu {
    threads: Threads,
    isa: Isa,
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpu {
    /// The threads of the rayon pool that calls are made in (the global pool outside of any; without
    /// the feature `rayon`, the calling thread), and the best instruction set of this machine.
    pub fn new() -> Self {
        Self { threads: Threads::ambient(), isa: Isa::best() }
    }

    /// As [`new`](Cpu::new), with the instruction set that the environment variable `MICROSEQ_ISA`
    /// names (`avx512bf16`, `avx512`, `avx2`, `portable`), if it is set.
    ///
    /// # Errors
    /// [`CpuError::UnknownIsa`], [`CpuError::IsaUnavailable`].
    pub fn from_environment() -> Result<Self, CpuError> {
        Ok(Self { threads: Threads::ambient(), isa: Isa::from_environment()? })
    }

    /// `threads` threads of its own; one is the calling thread.
    ///
    /// # Errors
    /// [`CpuError::ZeroThreads`], [`CpuError::Threads`].
    pub fn with_threads(threads: usize) -> Result<Self, CpuError> {
        Ok(Self { threads: Threads::of(threads)?, isa: Isa::best() })
    }

    /// The same device on another instruction set.
    ///
    /// # Errors
    /// [`CpuError::IsaUnavailable`].
    pub fn with_isa(mut self, isa: Isa) -> Result<Self, CpuError> {
        self.isa = isa.checked()?;
        Ok(self)
    }

    /// How many threads a call made here and now would use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn check_prepared(&self, prepared: &Prepared) -> Result<(), CpuError> {
        if prepared.isa != self.isa {
            return Err(CpuError::PreparedForAnotherIsa { prepared: prepared.isa, device: self.isa });
        }
        Ok(())
    }
}

impl Device for Cpu {
    type Space = Host;
    type Error = CpuError;
    type Prepared = Prepared;

    fn prepare(&self, problem: &Problem<'_>) -> Result<Prepared, CpuError> {
        Ok(Prepared::new(problem, self.isa, self.threads()))
    }

    fn prepare_into(&self, problem: &Problem<'_>, prepared: &mut Prepared) -> Result<(), CpuError> {
        prepared.fill(problem, self.isa, self.threads());
        Ok(())
    }

    fn scratch_bytes(&self, prepared: &Prepared, pass: Pass) -> usize {
        self.scratch(prepared, pass).bytes()
    }

    fn gather_into<E: Element>(&self, operands: Gather<'_, '_, Host, E>) -> Result<(), CpuError> {
        operands.check()?;
        let Gather { from, mut into } = operands;
        let mut at = 0;
        for share in from {
            zip_rows(&self.threads, *share, into.reborrow(), at, |from: &E, into: &mut E| *into = *from);
            at += share.k().layout().rows();
        }
        Ok(())
    }

    fn forward<E: Element>(
        &self,
        prepared: &Prepared,
        operands: Forward<'_, Host, E>,
        scratch: Scratch<'_, Host>,
    ) -> Result<(), CpuError> {
        operands.check(&prepared.shape)?;
        self.check_prepared(prepared)?;
        let plan = self.scratch(prepared, Pass::Forward);
        plan.check(scratch)?;

        let (k, v) = StridedRef::kv(operands.kv);
        let operands = forward::Operands {
            q: StridedRef::new(operands.q),
            k,
            v,
            out: StridedMut::new(operands.out),
            lse: StridedMut::new(operands.lse),
            head_dim: prepared.shape.head_dim,
            scoring: Scoring::new(&prepared.attention),
        };
        for rows in &prepared.blind {
            // SAFETY: the rows are inside the views, and the threads have not started.
            unsafe {
                fill_rows(&operands.out, rows.clone(), prepared, prepared.shape.head_dim, E::default())
            };
            // SAFETY: as above.
            unsafe { fill_rows(&operands.lse, rows.clone(), prepared, 1, f32::NEG_INFINITY) };
        }

        let memory = Carver::new(scratch);
        let kv_heads = prepared.shape.kv_heads;
        let queue = Queue::new(prepared.forward.len() * kv_heads);
        self.threads.run(plan.lanes, &|lane| {
            let memory = memory.lane(lane, plan.lane);
            let block = |item: usize| {
                let (rows, kv_head) = (&prepared.forward[item / kv_heads], item % kv_heads);
                let document = prepared.rows(rows.document, kv_head);
                forward::Block { document, kv_head, begin: rows.begin, end: rows.end }
            };
            queue.each_with_next(block, |block, upcoming| {
                // SAFETY: the machine has the instruction set (`Isa::checked`). Documents, rows and
                // heads are inside the views, whose shapes were checked against the problem's; blocks
                // are disjoint and each is taken once; the scratch is sized for them, and this part of
                // it is this lane's.
                unsafe {
                    dispatch::forward(self.isa, &operands, block, upcoming, prepared.forward_panels, memory);
                }
            });
        });
        Ok(())
    }

    fn backward<E: Element>(
        &self,
        prepared: &Prepared,
        operands: Backward<'_, Host, E>,
        scratch: Scratch<'_, Host>,
    ) -> Result<(), CpuError> {
        operands.check(&prepared.shape)?;
        self.check_prepared(prepared)?;
        let plan = self.scratch(prepared, Pass::Backward);
        plan.check(scratch)?;

        let (k, v) = StridedRef::kv(operands.kv);
        let (dk, dv) = StridedMut::kv(operands.dkv);
        let operands = backward::Operands {
            q: StridedRef::new(operands.q),
            k,
            v,
            out: StridedRef::new(operands.out),
            lse: StridedRef::new(operands.lse),
            dout: StridedRef::new(operands.dout),
            dq: StridedMut::new(operands.dq),
            dk,
            dv,
            head_dim: prepared.shape.head_dim,
            block_keys: prepared.block_keys,
            scoring: Scoring::new(&prepared.attention),
        };
        for rows in &prepared.blind {
            // SAFETY: the rows are inside the view, and the threads have not started.
            unsafe { fill_rows(&operands.dq, rows.clone(), prepared, prepared.shape.head_dim, E::default()) };
        }

        let mut memory = Carver::new(scratch);
        let relays = Relays::carve(&mut memory, prepared);
        relays.reset(prepared);
        let kv_heads = prepared.shape.kv_heads;
        let queue = Queue::new(prepared.backward.len() * kv_heads);
        self.threads.run(plan.lanes, &|lane| {
            let memory = memory.lane(lane, plan.lane);
            let block = |item: usize| {
                let (keys, kv_head) = (&prepared.backward[item / kv_heads], item % kv_heads);
                let document = prepared.rows(keys.document, kv_head);
                let relay = relays.relay(prepared, keys.document, kv_head);
                backward::Block { document, kv_head, index: keys.index, relay }
            };
            queue.each_with_next(block, |block, upcoming| {
                // SAFETY: as in the forward pass. Blocks of keys are disjoint and each is taken once;
                // a document's blocks stand in the list in ascending order, so those before this one
                // are done, at work, or about to be after one of a lower number.
                unsafe { dispatch::backward(self.isa, &operands, block, upcoming, memory) }
            });
        });
        Ok(())
    }

    fn accumulate(&self, operands: Accumulate<'_, Host>) -> Result<(), CpuError> {
        operands.check()?;
        zip_rows(&self.threads, operands.from, operands.into, 0, |from: &f32, into: &mut f32| *into += from);
        Ok(())
    }

    fn flush<E: Element>(&self, operands: Flush<'_, Host, E>) -> Result<(), CpuError> {
        operands.check()?;
        let round = |from: &f32, into: &mut E| *into = E::from_f32(*from);
        zip_rows(&self.threads, operands.from, operands.into, 0, round);
        Ok(())
    }
}

/// How a call's scratch is divided: what the lanes share, then a part for each.
struct ScratchPlan {
    shared: usize,
    lane: usize,
    lanes: usize,
}

impl ScratchPlan {
    /// Bytes to ask of a caller.
    fn bytes(&self) -> usize {
        match self.shared + self.lane * self.lanes {
            0 => 0,
            bytes => bytes + scratch::ALIGN - 1,
        }
    }

    fn check(&self, scratch: &[u8]) -> Result<(), ShapeError> {
        if scratch.len() < self.bytes() {
            return Err(ShapeError::Scratch { expected: self.bytes(), given: scratch.len() });
        }
        Ok(())
    }
}

impl Cpu {
    fn scratch(&self, prepared: &Prepared, pass: Pass) -> ScratchPlan {
        let geometry = prepared.geometry();
        let (shared, lane, blocks) = match pass {
            Pass::Forward => (0, forward::bytes(&geometry, prepared.forward_panels), prepared.forward.len()),
            Pass::Backward => (
                Relays::bytes(prepared),
                backward::bytes(&geometry, prepared.block_keys),
                prepared.backward.len(),
            ),
        };
        let lanes = self.threads().min(blocks * prepared.shape.kv_heads);
        ScratchPlan { shared, lane, lanes }
    }
}

/// dq on its way, of all documents.
struct Relays {
    dq: *mut f32,
    turns: *const AtomicU32,
}

// SAFETY: the pointers are into the call's exclusive scratch; who may use which part of it when is
// the contract of `backward::run`.
unsafe impl Sync for Relays {}

impl Relays {
    fn carve(memory: &mut Carver, prepared: &Prepared) -> Self {
        Self { dq: memory.take(prepared.relay_elements), turns: memory.take(prepared.relay_turns) }
    }

    fn bytes(prepared: &Prepared) -> usize {
        let mut memory = Carver::counting();
        Self::carve(&mut memory, prepared);
        memory.used()
    }

    /// No turn has been taken yet.
    fn reset(&self, prepared: &Prepared) {
        for turn in 0..prepared.relay_turns {
            // SAFETY: the array holds that many; any bytes are an `AtomicU32`.
            unsafe { (*self.turns.add(turn)).store(0, Ordering::Relaxed) };
        }
    }

    fn relay(&self, prepared: &Prepared, document: usize, kv_head: usize) -> Option<backward::Relay> {
        let document = &prepared.documents[document];
        let (dq, turn) = document.relay?;
        let block = kv_head * document.row_blocks;
        let len = backward::relay_len(&prepared.geometry());
        // SAFETY: the arrays were sized for every block of rows of every K/V head of such documents.
        unsafe {
            Some(backward::Relay { dq: self.dq.add(dq + block * len), turns: self.turns.add(turn + block) })
        }
    }
}

/// Fills every head of some query rows.
///
/// # Safety
/// The rows and the problem's heads are inside the view, whose heads hold `head_dim` elements; no
/// other thread touches them.
unsafe fn fill_rows<T: microseq_core::Scalar>(
    to: &StridedMut<T>,
    rows: Range<usize>,
    prepared: &Prepared,
    head_dim: usize,
    value: T,
) {
    for row in rows {
        for head in 0..prepared.shape.heads {
            // SAFETY: the caller vouches for row and head.
            unsafe { core::slice::from_raw_parts_mut(to.at(row, head), head_dim) }.fill(value);
        }
    }
}
