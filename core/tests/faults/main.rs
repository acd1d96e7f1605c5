//! The suite can fail: each fault of a device breaks the rules that it should, and each rule is
//! broken by some fault.
#![cfg(feature = "dev")]

mod device;

use device::{Fault, Faulty};
use microseq_core::dev::conformance::rules;
use microseq_core::dev::{Harness, HostHarness};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Faults, and rules that must catch them. Other rules may too.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::SkipsPadding, &["rows_of_no_document_give_nothing", "nothing_to_do_is_done"]),
    (Fault::AlignsTopLeft, &["matches_the_oracle_in_f32", "sequences_match_the_oracle"]),
    (Fault::IgnoresWindow, &["matches_the_oracle_in_f16"]),
    (Fault::IgnoresSoftcap, &["matches_the_oracle_in_bf16"]),
    (Fault::IgnoresScale, &["matches_the_oracle_in_f32"]),
    (Fault::IsAlwaysCausal, &["matches_the_oracle_in_f32"]),
    (Fault::GivesLseInBase2, &["matches_the_oracle_in_bf16", "sequences_match_the_oracle"]),
    (Fault::ComputesIn8Bits, &["matches_the_oracle_in_f16", "matches_the_oracle_in_f32"]),
    (Fault::Overflows, &["large_scores_neither_overflow_nor_vanish"]),
    (Fault::WritesAroundOut, &["writes_its_views_and_nothing_else"]),
    (Fault::WritesAroundDq, &["writes_its_views_and_nothing_else"]),
    (Fault::WritesBetweenGradients, &["writes_its_views_and_nothing_else"]),
    (Fault::AddsZeroEverywhere, &["rows_of_no_document_give_nothing", "nothing_to_do_is_done"]),
    (Fault::RefusesNoRows, &["nothing_to_do_is_done"]),
    (Fault::TakesInNeighbours, &["packing_does_not_change_bits", "rows_of_no_document_give_nothing"]),
    (Fault::DependsOnPosition, &["packing_does_not_change_bits"]),
    (Fault::DependsOnTheCut, &["steps_do_not_change_bits", "ranks_do_not_change_bits"]),
    (Fault::OverwritesGradients, &["gradients_add_to_the_store", "sequences_match_the_oracle"]),
    (Fault::TakesOpenRowsForZeros, &["a_zeroed_store_has_the_same_bits"]),
    (Fault::RoundsTheStore, &["a_gradient_of_zero_adds_nothing"]),
    (Fault::AddsPartialSums, &["steps_do_not_change_gradient_bits"]),
    (Fault::IsNotDeterministic, &["results_repeat_bit_for_bit"]),
    (Fault::GathersTheFirstShare, &["gather_copies_the_shares", "sequences_match_the_oracle"]),
    (Fault::GathersZerosForInfinities, &["gather_copies_the_shares"]),
    (Fault::AccumulateOverwrites, &["accumulate_adds", "sequences_match_the_oracle"]),
    (Fault::FlushTruncates, &["flush_rounds"]),
    (Fault::WearsOut, &["one_preparation_serves_all_layers"]),
    (Fault::KeepsOldMetadata, &["prepare_into_forgets_the_old_problem"]),
    (Fault::NeedsCleanScratch, &["scratch_may_lie_anywhere_and_hold_anything"]),
    (Fault::NeedsAlignedScratch, &["scratch_may_lie_anywhere_and_hold_anything"]),
    (Fault::TakesLittleScratch, &["forward_refuses_misfits", "backward_refuses_misfits"]),
    (Fault::TakesAnyType, &["forward_refuses_misfits", "backward_refuses_misfits"]),
    (Fault::WritesBeforeItChecks, &["forward_refuses_misfits", "backward_refuses_misfits"]),
    (Fault::WritesCopiesBeforeItChecks, &["gather_refuses_misfits", "accumulate_and_flush_refuse_misfits"]),
    (Fault::HidesErrors, &["forward_refuses_misfits", "backward_refuses_misfits", "gather_refuses_misfits"]),
];

fn harness(fault: Fault) -> HostHarness<Faulty> {
    HostHarness::new(Faulty::new(fault)).with_dkv_grain(|_| Some(1))
}

/// Whether a rule of that name catches a fault.
fn catches(name: &str, fault: Fault) -> bool {
    let rules = rules();
    let rule = rules.iter().find(|rule| rule.name == name);
    let rule = rule.unwrap_or_else(|| panic!("there is no rule {name}"));
    let harness = harness(fault);
    catch_unwind(AssertUnwindSafe(|| (rule.check)(&harness))).is_err()
}

#[test]
fn each_fault_is_caught() {
    for (fault, names) in FAULTS {
        for name in *names {
            assert!(catches(name, *fault), "{name} misses {fault:?}");
        }
    }
}

#[test]
fn each_rule_catches_a_fault() {
    fn names<H: Harness>(_: &H) -> BTreeSet<&'static str> {
        rules::<H>().into_iter().map(|rule| rule.name).collect()
    }
    let able: BTreeSet<_> = FAULTS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    assert_eq!(able, names(&harness(Fault::None)), "a rule that nothing shows to fail, or no rule");
}

#[test]
fn the_device_passes_without_a_fault() {
    microseq_core::dev::conformance::all(&harness(Fault::None));
}
