//! The device's calls: operands are checked, then handed to the passes.

use crate::call::ScratchPlan;
use crate::copy::zip_rows;
use crate::kernel::scoring::Scoring;
use crate::kernel::{backward, forward};
use crate::passes::{self, Call};
use crate::strided::{StridedMut, StridedRef};
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
        let call = Call { cpu: self, prepared, plan, scratch };
        // SAFETY: views, instruction set and scratch were checked above; the views are the call's until it
        // returns.
        unsafe { passes::forward(call, &operands) };
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
        let call = Call { cpu: self, prepared, plan, scratch };
        // SAFETY: as in the forward pass.
        unsafe { passes::backward(call, &operands) };
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
