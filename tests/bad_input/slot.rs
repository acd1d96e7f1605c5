//! Steps that come when it is not their turn. The slot stays as it was.

use crate::kind::Kind;
use microseq::{Plan, Slot, SlotError, Step};

/// Three steps of 5 rows.
fn steps() -> [Step<'static>; 3] {
    let plan = Plan::new(&[4, 1, 10], 5).unwrap();
    let mut steps = plan.steps();
    std::array::from_fn(|_| steps.next().unwrap())
}

fn slot(forward: usize, backward: usize) -> Slot {
    let mut slot = Slot::new(&Plan::new(&[4, 1, 10], 5).unwrap());
    for step in &steps()[..forward] {
        slot.forward(step).unwrap();
    }
    for step in steps().iter().rev().take(backward) {
        slot.backward(step).unwrap();
    }
    slot
}

/// A step on a slot that has run some forward and some backward.
fn kind(name: &str, mut slot: Slot, turn: Turn, step: &Step<'_>, expected: SlotError) -> Kind {
    let before = slot;
    let result = match turn {
        Turn::Forward => slot.forward(step),
        Turn::Backward => slot.backward(step),
    };
    assert_eq!(slot, before, "{name}: the slot changed");
    Kind::new(name, result, expected)
}

#[derive(Clone, Copy)]
enum Turn {
    Forward,
    Backward,
}
use Turn::{Backward, Forward};

pub(crate) fn kinds() -> Vec<Kind> {
    [past_end(), forward(), backward()].concat()
}

fn past_end() -> Vec<Kind> {
    let longer = Plan::new(&[20], 8).unwrap();
    let last = longer.steps().next_back().unwrap();
    let first = Plan::new(&[20], 16).unwrap().steps().next().unwrap();
    vec![
        kind(
            "forward past the store's end",
            slot(3, 0),
            Forward,
            &last,
            SlotError::PastEnd { step: 2, end: 20, rows: 15 },
        ),
        kind(
            "backward past the store's end",
            slot(3, 0),
            Backward,
            &first,
            SlotError::PastEnd { step: 0, end: 16, rows: 15 },
        ),
    ]
}

fn forward() -> Vec<Kind> {
    let [first, second, third] = steps();
    vec![
        kind(
            "the same step twice",
            slot(1, 0),
            Forward,
            &first,
            SlotError::AlreadyFilled { step: 0, begin: 0, expected: 5 },
        ),
        kind(
            "an earlier step again",
            slot(3, 0),
            Forward,
            &second,
            SlotError::AlreadyFilled { step: 1, begin: 5, expected: 15 },
        ),
        kind(
            "a first step that is not the first",
            slot(0, 0),
            Forward,
            &second,
            SlotError::StepSkipped { step: 1, begin: 5, expected: 0 },
        ),
        kind(
            "a step left out",
            slot(1, 0),
            Forward,
            &third,
            SlotError::StepSkipped { step: 2, begin: 10, expected: 5 },
        ),
        kind(
            "forward in a backward pass",
            slot(3, 1),
            Forward,
            &third,
            SlotError::ForwardInBackward { step: 2, expected: 10 },
        ),
        kind(
            "forward after a whole backward pass",
            slot(3, 3),
            Forward,
            &first,
            SlotError::ForwardInBackward { step: 0, expected: 0 },
        ),
    ]
}

fn backward() -> Vec<Kind> {
    let [first, second, third] = steps();
    vec![
        kind(
            "backward of an empty slot",
            slot(0, 0),
            Backward,
            &third,
            SlotError::BackwardBeforeForward { step: 2, frontier: 0, rows: 15 },
        ),
        kind(
            "backward before the last forward",
            slot(2, 0),
            Backward,
            &second,
            SlotError::BackwardBeforeForward { step: 1, frontier: 10, rows: 15 },
        ),
        kind(
            "backward from the front",
            slot(3, 0),
            Backward,
            &first,
            SlotError::BackwardSkipped { step: 0, end: 5, expected: 15 },
        ),
        kind(
            "a backward step left out",
            slot(3, 1),
            Backward,
            &first,
            SlotError::BackwardSkipped { step: 0, end: 5, expected: 10 },
        ),
        kind(
            "backward of the same step twice",
            slot(3, 1),
            Backward,
            &third,
            SlotError::AlreadySealed { step: 2, end: 15, expected: 10 },
        ),
        kind(
            "backward of a later step again",
            slot(3, 3),
            Backward,
            &second,
            SlotError::AlreadySealed { step: 1, end: 10, expected: 0 },
        ),
    ]
}
