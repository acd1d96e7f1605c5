//! Measuring, for the criterion benches, `examples/bench` and the comparison with rivals alike.
//!
//! Data flows one way: a [`Workload`](workload::Workload) says what is computed, a
//! [`Cut`](layer::Cut) is its plan with every step's metadata, a [`Layer`](layer::Layer) holds the
//! operands and runs both passes over its slot, [`check`] compares them with the float64 oracle before
//! anything is timed, and [`peak`] says what the machine could do at most.
//!
//! What is timed is what a runtime does for each layer: the device's calls, a step at a time, with
//! metadata prepared once and scratch that is lent. Writing K and V into the slot and clearing the
//! gradient store are not timed here: projections write the one, a runtime clears the other once for
//! each sequence.

#![allow(dead_code, reason = "every program that includes this module uses its part of it")]

pub(crate) mod check;
pub(crate) mod layer;
pub(crate) mod memory;
pub(crate) mod packing;
pub(crate) mod peak;
pub(crate) mod timing;
pub(crate) mod workload;
