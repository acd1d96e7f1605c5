//! The order of a slot: every sequence of calls against a transcription of the rules.

use microseq_core::{Plan, Slot, SlotError, Step};
use std::collections::BTreeSet;

/// Three steps of 5 rows, over two documents.
const LENGTHS: &[u32] = &[7, 8];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Forward(usize),
    Backward(usize),
}

/// What the rules say: steps come once forward in order, then once backward in reverse.
#[derive(Clone, Copy)]
struct Rules {
    forward: usize,
    backward: usize,
}

impl Rules {
    /// `Ok` or the expected error.
    fn turn(&mut self, turn: Turn) -> Result<(), SlotError> {
        let (step, rows) = match turn {
            Turn::Forward(step) | Turn::Backward(step) => (step, 15),
        };
        let (begin, end) = (5 * step, 5 * step + 5);
        // The end of the step whose backward is due.
        let due = 5 * (3 - self.backward);
        match turn {
            _ if step > 2 => Err(SlotError::PastEnd { step, end, rows }),
            Turn::Forward(_) if self.backward > 0 => {
                Err(SlotError::ForwardInBackward { step, expected: due })
            }
            Turn::Forward(_) if step < self.forward => {
                Err(SlotError::AlreadyFilled { step, begin, expected: 5 * self.forward })
            }
            Turn::Forward(_) if step > self.forward => {
                Err(SlotError::StepSkipped { step, begin, expected: 5 * self.forward })
            }
            Turn::Forward(_) => {
                self.forward += 1;
                Ok(())
            }
            Turn::Backward(_) if self.forward < 3 => {
                Err(SlotError::BackwardBeforeForward { step, frontier: 5 * self.forward, rows })
            }
            Turn::Backward(_) if end > due => Err(SlotError::AlreadySealed { step, end, expected: due }),
            Turn::Backward(_) if end < due => Err(SlotError::BackwardSkipped { step, end, expected: due }),
            Turn::Backward(_) => {
                self.backward += 1;
                Ok(())
            }
        }
    }
}

/// The steps of the plan, and one that a longer plan has behind them.
fn steps() -> Vec<Step<'static>> {
    Plan::new(&[7, 8, 5], 5).unwrap().steps().collect()
}

fn take(slot: &mut Slot, steps: &[Step<'_>], turn: Turn) -> Result<std::ops::Range<usize>, SlotError> {
    match turn {
        Turn::Forward(step) => slot.forward(&steps[step]),
        Turn::Backward(step) => slot.backward(&steps[step]),
    }
}

/// Goes on from a state with every turn there is, `depth` more times; collects the errors met.
fn explore(slot: Slot, rules: Rules, depth: usize, errors: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    let steps = steps();
    for turn in (0..4).flat_map(|step| [Turn::Forward(step), Turn::Backward(step)]) {
        let (mut slot, mut rules) = (slot, rules);
        let before = slot;
        let expected = rules.turn(turn);
        let given = take(&mut slot, &steps, turn);
        assert_eq!(given.as_ref().err(), expected.as_ref().err(), "{turn:?} on {before:?}");
        match given {
            Ok(window) => {
                assert_eq!(window, [0..5, 0..10, 7..15][step_of(turn)].clone(), "{turn:?} on {before:?}");
                assert_eq!(slot.frontier(), 5 * rules.forward);
                assert_eq!(slot.sealed(), 5 * (3 - rules.backward)..15);
                explore(slot, rules, depth - 1, errors);
            }
            Err(error) => {
                assert_eq!(slot, before, "{turn:?} failed, yet changed the slot");
                assert!(error.to_string().contains(&format!("step {}", step_of(turn))), "{error}");
                let debug = format!("{error:?}");
                errors.insert(debug[..debug.find(' ').unwrap()].into());
            }
        }
    }
}

fn step_of(turn: Turn) -> usize {
    match turn {
        Turn::Forward(step) | Turn::Backward(step) => step,
    }
}

#[test]
fn every_order_of_turns_is_as_the_rules_say() {
    let slot = Slot::new(&Plan::new(LENGTHS, 5).unwrap());
    let mut errors = BTreeSet::new();
    explore(slot, Rules { forward: 0, backward: 0 }, 7, &mut errors);
    let all = [
        "AlreadyFilled",
        "AlreadySealed",
        "BackwardBeforeForward",
        "BackwardSkipped",
        "ForwardInBackward",
        "PastEnd",
        "StepSkipped",
    ];
    assert_eq!(errors.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn a_restarted_slot_is_a_new_one() {
    let plan = Plan::new(LENGTHS, 5).unwrap();
    let mut slot = Slot::new(&plan);
    for step in plan.steps() {
        slot.forward(&step).unwrap();
    }
    slot.backward(&plan.steps().next_back().unwrap()).unwrap();
    slot.restart();
    assert_eq!(slot, Slot::new(&plan));
}

#[test]
fn a_share_stands_for_its_step() {
    let plan = Plan::new(LENGTHS, 5).unwrap();
    let mut slot = Slot::new(&plan);
    let share = plan.steps().next().unwrap().share(0, 2).unwrap();
    assert_eq!(slot.forward(&share), Ok(0..2));
    assert_eq!(slot.frontier(), 5);
}

#[test]
fn a_step_of_another_cut_is_refused() {
    let plan = Plan::new(LENGTHS, 5).unwrap();
    let mut slot = Slot::new(&plan);
    slot.forward(&plan.steps().next().unwrap()).unwrap();
    // It begins at row 4, inside what is filled.
    let other = Plan::new(LENGTHS, 4).unwrap().steps().nth(1).unwrap();
    assert_eq!(slot.forward(&other), Err(SlotError::AlreadyFilled { step: 1, begin: 4, expected: 5 }));
}
