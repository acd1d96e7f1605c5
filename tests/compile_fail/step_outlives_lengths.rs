//! A step outlives its plan, but not the lengths.
use microseq::{Plan, Step};

fn main() {
    let lengths = vec![4, 1, 10];
    let step: Step<'_> = Plan::new(&lengths, 5).unwrap().steps().next().unwrap();
    drop(lengths);
    step.documents();
}
