//! The rules that every device keeps, as functions that panic where one is broken.
//!
//! [`all`] checks them all; [`conformance_tests!`](crate::conformance_tests) makes a test of each.

mod oracle;

pub use oracle::*;

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
            sequences_match_the_oracle
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
