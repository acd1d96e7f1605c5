//! A document far longer than its window: memory stays what the window needs, and so do the bits.

mod common;

use common::cpus::{self, THREADS};
use common::document::{Around, Document};
use microseq::{Attention, Device, Element, Pass, Plan, Problem, bf16};

/// More blocks of rows than dq has places on its way, for the largest number of threads.
const LENGTH: usize = 4000;

fn attention() -> Attention {
    Attention::new(2, 1, 4).and_then(|attention| attention.with_window(9)).expect("a legal attention")
}

#[test]
fn scratch_does_not_grow_with_the_document() {
    let scratch = |length: u32, threads: usize| {
        let cpu = cpus::cpu(microseq::cpu::Isa::best(), threads);
        let lengths = [length];
        let plan = Plan::new(&lengths, length as usize).expect("a legal plan");
        let step = plan.steps().next().expect("one step");
        let prepared = cpu.prepare(&Problem::of::<f32>(attention(), step).expect("a legal problem"));
        let prepared = prepared.expect("it is prepared");
        [Pass::Forward, Pass::Backward].map(|pass| cpu.scratch_bytes(&prepared, pass))
    };
    for threads in THREADS {
        let (shorter, longer) = (scratch(100_000, threads), scratch(1_000_000, threads));
        // Not the same: blocks may be smaller where the work of all threads is, up to their largest size.
        let grown = shorter.iter().zip(longer).any(|(shorter, longer)| longer > 2 * shorter);
        assert!(!grown, "{threads} threads: from {shorter:?} to {longer:?} bytes");
    }
}

#[test]
fn places_of_dq_are_taken_again_without_a_trace() {
    each_isa::<f32>();
    each_isa::<bf16>();
}

/// Against steps so short that no place is taken twice.
fn each_isa<E: Element>() {
    let document = Document::<E>::new(attention(), LENGTH, 3);
    for isa in cpus::isas() {
        let cut = document.run(&cpus::harness(isa, 1), &Around::nothing().steps_of(250));
        for threads in THREADS {
            let whole = document.run(&cpus::harness(isa, threads), &Around::nothing());
            whole.assert_same(&format!("{isa}, {}, {threads} threads", E::DTYPE), &cut);
        }
    }
}
