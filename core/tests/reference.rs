//! The suite passes on the simplest device.
#![cfg(feature = "dev")]

use microseq_core::dev::{HostHarness, Reference};

microseq_core::conformance_tests!(HostHarness::new(Reference).with_dkv_grain(|_| Some(1)));
