//! No element of an output is left as it was, and nothing else is touched.
//!
//! Outputs, scratch and every row that a call has no business with hold NaN beforehand: a result
//! that depends on one of them, or an element left out, shows.

#[path = "../common/mod.rs"]
mod common;

mod blind;
mod copies;
mod steps;
