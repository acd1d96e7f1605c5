//! What Fast-LLM's own code computes.

use crate::transcription::{Description, Rows, describe};
use microseq_core::Plan;

/// A line of the golden file.
#[derive(serde::Deserialize)]
struct Case {
    lengths: Vec<u32>,
    micro_sequence_length: usize,
    steps: Vec<Description>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/plans.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_transcription_is_the_definition() {
    let cases = cases();
    assert_eq!(cases.len(), 40);
    for case in cases {
        let rows = Rows::new(&case.lengths, case.lengths.iter().sum::<u32>() as usize);
        for step in case.steps {
            assert_eq!(rows.describe(step.begin..step.end), step, "lengths {:?}", case.lengths);
        }
    }
}

#[test]
fn plans_are_the_golden_ones() {
    for case in cases() {
        let plan = Plan::new(&case.lengths, case.micro_sequence_length).unwrap();
        let steps: Vec<_> = plan.steps().map(|step| describe(&step)).collect();
        assert_eq!(steps, case.steps, "lengths {:?}", case.lengths);
    }
}
