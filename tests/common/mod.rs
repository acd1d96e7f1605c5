//! What the test programs share. Each is a program of its own and uses some of it.
#![allow(dead_code)]

pub(crate) mod bits;
pub(crate) mod cpus;
pub(crate) mod document;
pub(crate) mod golden;
pub(crate) mod guarded;
pub(crate) mod operators;
pub(crate) mod ranked;
pub(crate) mod safetensors;
