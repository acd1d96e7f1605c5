//! The whole program on little text.

use super::*;
use crate::results::Difference;
use clap::CommandFactory;

fn run(options: &[&str]) -> Result<()> {
    let args = Args::parse_from(["pack_text"].iter().chain(options));
    let text = b"micro-sequences share one store of keys and values";
    let documents = Documents { tokens: text.to_vec(), lengths: vec![15, 0, 6, 29] };
    typed(&device::cpu(Some(1))?, "cpu", &args, &documents)
}

#[test]
fn every_type_runs_in_steps_and_ranks() {
    for dtype in ["f32", "f16", "bf16"] {
        run(&["--type", dtype, "--micro-sequence-length", "7", "--head-dim", "8", "--layers", "1"]).unwrap();
        run(&["--type", dtype, "--micro-sequence-length", "9", "--ranks", "4", "--window", "3"]).unwrap();
    }
}

#[test]
fn bad_options_are_named() {
    let message = |options: &[&str]| run(options).unwrap_err().to_string();
    assert!(message(&["--heads", "3", "--kv-heads", "2"]).contains("multiple"));
    assert!(message(&["--micro-sequence-length", "0"]).contains("micro_sequence_length"));
    assert!(message(&["--ranks", "0"]).contains("ranks"));
    assert!(message(&["--window", "0"]).contains("window"));
}

#[test]
fn differences_are_counted_and_measured() {
    let mut difference = Difference::default();
    difference.add(&[1.0f32, 2.0, 2.5], &[1.0, 2.0, 2.0]);
    assert_eq!((difference.elements, difference.differing, difference.max_abs), (3, 1, 0.5));
    assert!((difference.relative_rms() - 0.5 / 3.0).abs() < 1e-12);
}

#[test]
fn memory_counts_windows() {
    // Windows 0..5, 5..10 and 5..15; at the worst, step 1 holds its own and what step 2 left of it.
    let plan = Plan::new(&[4, 1, 10], 5).unwrap();
    let attention = microseq::Attention::new(1, 1, 1).unwrap();
    let memory = Memory::new(&plan, &attention, DType::Bf16, 1);
    assert_eq!((memory.slot_kv, memory.slot_gradients), (15 * 4, 15 * 8));
    assert_eq!((memory.concatenated_kv, memory.concatenated_gradients), (20 * 4, 10 * 4));
}

#[test]
fn large_numbers_are_readable() {
    assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(report::thousands));
}

#[test]
fn command_line_is_sound() {
    Args::command().debug_assert();
}
