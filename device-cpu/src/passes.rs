//! The passes over checked operands: rows that no kernel visits are filled, blocks of work handed to the
//! threads.
//!
//! The device's calls are generic over the element type, so each crate that makes them compiles them anew.
//! The kernels, nearly all of the code, must not be among what it compiles. So the calls end here, in
//! functions that are not generic: they find the type at run time, once for a call, and are compiled with
//! all kernels of all types in this crate alone.

use crate::call::{Relays, ScratchPlan, fill_rows};
use crate::dispatch;
use crate::kernel::{backward, forward};
use crate::scratch::Carver;
use crate::threads::Queue;
use crate::{Cpu, Prepared};
use core::any::Any;
use microseq_core::{DType, Element, bf16, f16};

/// A call besides its operands.
pub(crate) struct Call<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) prepared: &'a Prepared,
    pub(crate) plan: ScratchPlan,
    pub(crate) scratch: &'a mut [u8],
}

/// The forward pass over [`forward::Operands`] of the prepared element type.
///
/// # Safety
/// The operands are of views that were checked against the prepared shape and stay borrowed, those that
/// are written mutably. The call was prepared for the device's instruction set; its plan is the pass's, and
/// the scratch was checked against it.
#[inline(never)]
pub(crate) unsafe fn forward(call: Call<'_>, operands: &dyn Any) {
    // SAFETY: the caller's contract, passed on.
    unsafe {
        match call.prepared.shape.dtype {
            DType::F32 => forward_of::<f32>(call, typed(operands)),
            DType::F16 => forward_of::<f16>(call, typed(operands)),
            DType::Bf16 => forward_of::<bf16>(call, typed(operands)),
        }
    }
}

/// The backward pass over [`backward::Operands`] of the prepared element type.
///
/// # Safety
/// As [`forward()`].
#[inline(never)]
pub(crate) unsafe fn backward(call: Call<'_>, operands: &dyn Any) {
    // SAFETY: the caller's contract, passed on.
    unsafe {
        match call.prepared.shape.dtype {
            DType::F32 => backward_of::<f32>(call, typed(operands)),
            DType::F16 => backward_of::<f16>(call, typed(operands)),
            DType::Bf16 => backward_of::<bf16>(call, typed(operands)),
        }
    }
}

/// Operands as what they are.
fn typed<T: Any>(operands: &dyn Any) -> &T {
    operands.downcast_ref().expect("operands are of the prepared element type")
}

/// # Safety
/// As [`forward()`].
unsafe fn forward_of<E: Element>(call: Call<'_>, operands: &forward::Operands<E>) {
    let Call { cpu, prepared, plan, scratch } = call;
    for rows in &prepared.blind {
        // SAFETY: the rows are inside the views, and the threads have not started.
        unsafe { fill_rows(&operands.out, rows.clone(), prepared, prepared.shape.head_dim, E::default()) };
        // SAFETY: as above.
        unsafe { fill_rows(&operands.lse, rows.clone(), prepared, 1, f32::NEG_INFINITY) };
    }
    let memory = Carver::new(scratch);
    let schedule = &prepared.forward;
    let queue = Queue::new(schedule.units().len());
    cpu.threads.run(plan.lanes, &|lane| {
        let memory = memory.lane(lane, plan.lane);
        let block = |number: usize| {
            let (item, kv_head) = schedule.block(number);
            let document = prepared.rows(item.document, kv_head);
            forward::Block { document, kv_head, begin: item.work.begin, end: item.work.end }
        };
        queue.each_with_next(schedule.units(), block, |block, upcoming| {
            // SAFETY: the machine has the instruction set (`Isa::checked`). Documents, rows and heads
            // are inside the views, whose shapes were checked against the problem's; blocks are disjoint
            // and each is taken once; the scratch is sized for them, and this part of it is this lane's.
            unsafe { dispatch::forward(cpu.isa(), operands, block, upcoming, memory) }
        });
    });
}

/// # Safety
/// As [`forward()`].
unsafe fn backward_of<E: Element>(call: Call<'_>, operands: &backward::Operands<E>) {
    let Call { cpu, prepared, plan, scratch } = call;
    for rows in &prepared.blind {
        // SAFETY: the rows are inside the view, and the threads have not started.
        unsafe { fill_rows(&operands.dq, rows.clone(), prepared, prepared.shape.head_dim, E::default()) };
    }
    let mut memory = Carver::new(scratch);
    let relays = Relays::carve(&mut memory, prepared);
    relays.reset(prepared);
    let schedule = &prepared.backward;
    let queue = Queue::new(schedule.units().len());
    cpu.threads.run(plan.lanes, &|lane| {
        let memory = memory.lane(lane, plan.lane);
        let block = |number: usize| {
            let (item, kv_head) = schedule.block(number);
            let document = prepared.rows(item.document, kv_head);
            let relay = relays.relay(prepared, item.document, kv_head);
            let zeroed = prepared.documents[item.document].zeroed;
            backward::Block { document, kv_head, index: item.work.index, zeroed, relay }
        };
        queue.each_with_next(schedule.units(), block, |block, upcoming| {
            // SAFETY: as in the forward pass. Blocks of keys are disjoint and each is taken once; a
            // document's blocks stand in the list in ascending order, so those before this one are done,
            // at work, or about to be after one of a lower number.
            unsafe { dispatch::backward(cpu.isa(), operands, block, upcoming, memory) }
        });
    });
}
