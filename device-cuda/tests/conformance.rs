//! The conformance suite of core on the first GPU of this machine. With MICROSEQ_TEST_TYPE the rules that go
//! through all types go through that one; those of another type then fail, having tested nothing.

mod common;

use common::gpu_test;
use microseq_core::DType;
use microseq_core::dev::conformance;
use microseq_cuda::CudaHarness;

/// A rule of the suite and its name.
type Rule = (&'static str, fn(&CudaHarness));

fn main() {
    let rules: &[Rule] = &[
        ("matches_the_oracle_in_f32", conformance::matches_the_oracle_in_f32),
        ("matches_the_oracle_in_f16", conformance::matches_the_oracle_in_f16),
        ("matches_the_oracle_in_bf16", conformance::matches_the_oracle_in_bf16),
        ("large_scores_neither_overflow_nor_vanish", conformance::large_scores_neither_overflow_nor_vanish),
        ("sequences_match_the_oracle", conformance::sequences_match_the_oracle),
        ("writes_its_views_and_nothing_else", conformance::writes_its_views_and_nothing_else),
        ("rows_of_no_document_give_nothing", conformance::rows_of_no_document_give_nothing),
        ("nothing_to_do_is_done", conformance::nothing_to_do_is_done),
        ("packing_does_not_change_bits", conformance::packing_does_not_change_bits),
        ("steps_do_not_change_bits", conformance::steps_do_not_change_bits),
        ("ranks_do_not_change_bits", conformance::ranks_do_not_change_bits),
        ("gradients_add_to_the_store", conformance::gradients_add_to_the_store),
        ("a_gradient_of_zero_adds_nothing", conformance::a_gradient_of_zero_adds_nothing),
        ("results_repeat_bit_for_bit", conformance::results_repeat_bit_for_bit),
        ("steps_do_not_change_gradient_bits", conformance::steps_do_not_change_gradient_bits),
        ("gather_copies_the_shares", conformance::gather_copies_the_shares),
        ("accumulate_adds", conformance::accumulate_adds),
        ("flush_rounds", conformance::flush_rounds),
        ("one_preparation_serves_all_layers", conformance::one_preparation_serves_all_layers),
        ("prepare_into_forgets_the_old_problem", conformance::prepare_into_forgets_the_old_problem),
        (
            "scratch_may_lie_anywhere_and_hold_anything",
            conformance::scratch_may_lie_anywhere_and_hold_anything,
        ),
        ("forward_refuses_misfits", conformance::forward_refuses_misfits),
        ("backward_refuses_misfits", conformance::backward_refuses_misfits),
        ("gather_refuses_misfits", conformance::gather_refuses_misfits),
        ("accumulate_and_flush_refuse_misfits", conformance::accumulate_and_flush_refuse_misfits),
    ];
    let harness = |cuda| match test_type() {
        None => CudaHarness::new(cuda),
        Some(only) => CudaHarness::of_type(cuda, only),
    };
    let tests = rules.iter().map(|(name, rule)| gpu_test(name, move |cuda| rule(&harness(cuda)))).collect();
    common::run(tests);
}

fn test_type() -> Option<DType> {
    let name = std::env::var("MICROSEQ_TEST_TYPE").ok()?;
    Some(
        [DType::F32, DType::F16, DType::Bf16]
            .into_iter()
            .find(|dtype| dtype.to_string() == name)
            .expect("MICROSEQ_TEST_TYPE is f32, f16 or bf16"),
    )
}
