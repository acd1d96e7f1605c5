//! Ranks that are threads, on the CPU device: against one rank, and against each other.

#[path = "../common/mod.rs"]
mod common;

mod cuts;
mod faults;
mod golden;
mod group;
mod strides;
