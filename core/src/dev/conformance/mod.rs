//! The rules that every device keeps, as functions that panic where one is broken.
//!
//! [`all`] checks them all; [`conformance_tests!`](crate::conformance_tests) makes a test of each.

mod common;
mod copies;
mod gradients;
mod invariance;
mod oracle;
mod prepared;
mod refusals;
mod rows;

pub use copies::{accumulate_adds, flush_rounds, gather_copies_the_shares};
pub use gradients::{
    a_gradient_of_zero_adds_nothing, a_zeroed_store_has_the_same_bits, gradients_add_to_the_store,
    results_repeat_bit_for_bit, steps_do_not_change_gradient_bits,
};
pub use invariance::{packing_does_not_change_bits, ranks_do_not_change_bits, steps_do_not_change_bits};
pub use oracle::{
    large_scores_neither_overflow_nor_vanish, matches_the_oracle_in_bf16, matches_the_oracle_in_f16,
    matches_the_oracle_in_f32, sequences_match_the_oracle,
};
pub use prepared::{
    one_preparation_serves_all_layers, prepare_into_forgets_the_old_problem,
    scratch_may_lie_anywhere_and_hold_anything,
};
pub use refusals::{
    accumulate_and_flush_refuse_misfits, backward_refuses_misfits, forward_refuses_misfits,
    gather_refuses_misfits,
};
pub use rows::{nothing_to_do_is_done, rows_of_no_document_give_nothing, writes_its_views_and_nothing_else};

use crate::dev::Harness;
use std::vec;
use std::vec::Vec;

/// Calls a macro with the names of all rules.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_conformance_rule {
    ($callback:ident! $arguments:tt) => {
        $crate::$callback! {
            $arguments
            matches_the_oracle_in_f32
            matches_the_oracle_in_f16
            matches_the_oracle_in_bf16
            large_scores_neither_overflow_nor_vanish
            sequences_match_the_oracle
            writes_its_views_and_nothing_else
            rows_of_no_document_give_nothing
            nothing_to_do_is_done
            packing_does_not_change_bits
            steps_do_not_change_bits
            ranks_do_not_change_bits
            gradients_add_to_the_store
            a_gradient_of_zero_adds_nothing
            a_zeroed_store_has_the_same_bits
            results_repeat_bit_for_bit
            steps_do_not_change_gradient_bits
            gather_copies_the_shares
            accumulate_adds
            flush_rounds
            one_preparation_serves_all_layers
            prepare_into_forgets_the_old_problem
            scratch_may_lie_anywhere_and_hold_anything
            forward_refuses_misfits
            backward_refuses_misfits
            gather_refuses_misfits
            accumulate_and_flush_refuse_misfits
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (($harness:expr) $($rule:ident)*) => {$(
        #[test]
        fn $rule() {
            $crate::dev::conformance::$rule(&$harness);
        }
    )*};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_rules {
    (() $($rule:ident)*) => {
        vec![$(Rule { name: stringify!($rule), check: $crate::dev::conformance::$rule::<H> },)*]
    };
}

/// Makes a `#[test]` per rule of the suite, each named like its function in
/// [`dev::conformance`](crate::dev::conformance). Takes an expression that makes a
/// [`Harness`](crate::dev::Harness).
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr $(,)?) => {
        $crate::__for_each_conformance_rule! { __conformance_tests! ($harness) }
    };
}

/// A rule of the suite.
pub struct Rule<H> {
    /// The name of its function in this module.
    pub name: &'static str,
    /// Panics where the harness's device breaks the rule.
    pub check: fn(&H),
}

/// All rules of the suite.
pub fn rules<H: Harness>() -> Vec<Rule<H>> {
    crate::__for_each_conformance_rule! { __conformance_rules! () }
}

/// Checks every rule.
///
/// # Panics
/// Where the device breaks one.
pub fn all<H: Harness>(harness: &H) {
    for rule in rules::<H>() {
        (rule.check)(harness);
    }
}
