//! Plans a sequence and walks a slot over it, forward and backward, with nothing but the core and
//! C's start-up code. Exits with 0 where everything comes out right, else with the number of the
//! check that failed.
#![no_std]
#![no_main]

use core::hint::black_box;
use microseq_core::{Mask, Plan, Slot, SlotError, Step};

unsafe extern "C" {
    safe fn abort() -> !;
}

// The C library: its start-up code, `abort`, and the `memcpy` family that the compiler calls.
#[link(name = "c")]
unsafe extern "C" {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    abort()
}

// SAFETY: nothing else in the program is called `main`, and C's start-up code calls it so.
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    // Hidden from the optimiser, which would otherwise work everything out at compile time.
    let lengths = black_box([4u32, 1, 10]);
    let Ok(plan) = Plan::new(&lengths, black_box(5)) else { return 1 };
    if !windows_are_right(&plan) {
        return 2;
    }
    if !cu_seqlens_are_right(&plan) {
        return 3;
    }
    let mut slot = Slot::new(&plan);
    if plan.steps().any(|step| slot.forward(&step) != Ok(step.window())) {
        return 4;
    }
    if plan.steps().rev().any(|step| slot.backward(&step) != Ok(step.window())) {
        return 5;
    }
    let Some(first) = plan.steps().next() else { return 6 };
    if slot.forward(&first) != Err(SlotError::ForwardInBackward { step: 0, expected: 0 }) {
        return 7;
    }
    0
}

fn windows_are_right(plan: &Plan<'_>) -> bool {
    let expected = [(0..5, 11), (5..10, 15), (5..15, 40)];
    let pairs = |step: &Step<'_>| step.pairs(Mask::CAUSAL);
    plan.steps().map(|step| (step.window(), pairs(&step))).eq(expected)
}

fn cu_seqlens_are_right(plan: &Plan<'_>) -> bool {
    let (mut q, mut k) = ([0; 3], [0; 3]);
    let Some(last) = plan.steps().next_back() else { return false };
    last.cu_seqlens(&mut q, &mut k).is_ok_and(|c| c.q == [0, 5] && c.k == [0, 10])
}
