//! The device's calls: operands are checked, then blocks of work handed to the threads.

use crate::call::{Relays, ScratchPlan, fill_rows};
use crate::copy::zip_rows;
use crate::dispatch;
use crate::kernel::scoring::Scoring;
use crate::kernel::{backward, forward};
use crate::scratch::Carver;
use crate::strided::{StridedMut, StridedRef};
use crate::threads::Queue;
use crate::{Cpu, CpuError, Prepared};
use microseq_core::{
    Accumulate, Backward, Device, Element, Flush, Forward, Gather, Host, Pass, Problem, Scratch,
};

impl Device for Cpu {
    type Space = Host;
    type Error = CpuError;
    type Prepared = Prepared;

    fn prepare(&self, problem: &Problem<'_>) -> Result<Prepared, CpuError> {
        Ok(Prepared::new(problem, self.isa(), self.threads()))
    }

    fn prepare_into(&self, problem: &Problem<'_>, prepared: &mut Prepared) -> Result<(), CpuError> {
        prepared.fill(problem, self.isa(), self.threads());
        Ok(())
    }

    fn scratch_bytes(&self, prepared: &Prepared, pass: Pass) -> usize {
        ScratchPlan::new(prepared, pass, self.threads()).bytes()
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
        let plan = ScratchPlan::new(prepared, Pass::Forward, self.threads());
        plan.check(scratch)?;

        let (k, v) = StridedRef::kv(operands.kv);
        let operands = forward::Operands {
            q: StridedRef::new(operands.q),
            k,
            v,
            out: StridedMut::new(operands.out),
            lse: StridedMut::new(operands.lse),
            head_dim: prepared.shape.head_dim,
            block_rows: prepared.block_rows,
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
        let schedule = &prepared.forward;
        let queue = Queue::new(schedule.units().len());
        self.threads.run(plan.lanes, &|lane| {
            let memory = memory.lane(lane, plan.lane);
            let block = |number: usize| {
                let (item, kv_head) = schedule.block(number);
                let document = prepared.rows(item.document, kv_head);
                forward::Block { document, kv_head, begin: item.work.begin, end: item.work.end }
            };
            queue.each_with_next(schedule.units(), block, |block, upcoming| {
                // SAFETY: the machine has the instruction set (`Isa::checked`). Documents, rows and
                // heads are inside the views, whose shapes were checked against the problem's; blocks
                // are disjoint and each is taken once; the scratch is sized for them, and this part of
                // it is this lane's.
                unsafe {
                    dispatch::forward(self.isa(), &operands, block, upcoming, memory);
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
        let plan = ScratchPlan::new(prepared, Pass::Backward, self.threads());
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
        let schedule = &prepared.backward;
        let queue = Queue::new(schedule.units().len());
        self.threads.run(plan.lanes, &|lane| {
            let memory = memory.lane(lane, plan.lane);
            let block = |number: usize| {
                let (item, kv_head) = schedule.block(number);
                let document = prepared.rows(item.document, kv_head);
                let relay = relays.relay(prepared, item.document, kv_head);
                backward::Block { document, kv_head, index: item.work.index, relay }
            };
            queue.each_with_next(schedule.units(), block, |block, upcoming| {
                // SAFETY: as in the forward pass. Blocks of keys are disjoint and each is taken once;
                // a document's blocks stand in the list in ascending order, so those before this one
                // are done, at work, or about to be after one of a lower number.
                unsafe { dispatch::backward(self.isa(), &operands, block, upcoming, memory) }
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
