//! Every kind of bad input is an error of its own that names what is wrong, and nothing is written.
//!
//! Each module lists kinds: a name, the error that comes, the error that should. Where the call
//! refused has something to write to, that is filled with a pattern before and compared bit for bit
//! after; see [`kind::untouched`].

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod device;
mod extremes;
mod gather;
mod kind;
mod operands;
mod plan;
mod slot;
mod step;
mod varlen;
mod views;

use kind::Kind;
use std::collections::BTreeSet;

/// All kinds. Making them runs them.
fn kinds() -> Vec<Kind> {
    [
        plan::kinds(),
        step::kinds(),
        slot::kinds(),
        varlen::kinds(),
        views::kinds(),
        attention::kinds(),
        operands::kinds(),
        gather::kinds(),
        device::kinds(),
    ]
    .concat()
}

#[test]
fn each_kind_is_refused_with_its_error() {
    for kind in kinds() {
        assert_eq!(kind.given, kind.expected, "{}", kind.name);
    }
}

#[test]
fn there_are_many_kinds() {
    let kinds = kinds();
    let names: BTreeSet<_> = kinds.iter().map(|kind| &kind.name).collect();
    assert_eq!(names.len(), kinds.len(), "two kinds have one name");
    // A call's operands are checked alike forward and backward, so those share messages.
    let messages: BTreeSet<_> = kinds.iter().map(|kind| &kind.message).collect();
    assert!(messages.len() >= 40, "{} kinds of {} messages", names.len(), messages.len());
}
