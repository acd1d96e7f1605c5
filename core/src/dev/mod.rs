//! Tests of devices (feature `dev`, needs std).
//!
//! # For device authors
//!
//! 1. Put your device behind a [`Harness`]: the device, and owned memory in its space. For memory of
//!    the host that is `HostHarness::new(device)`.
//! 2. Run the suite: [`conformance_tests!`](crate::conformance_tests) makes one test per rule, and
//!    [`conformance::all`] runs them all in one call.
//! 3. Where a rule fails, reproduce it small with [`run`] and compare with the [`oracle`].
//!
//! ```
//! mod tests {
//!     # use microseq_core as _;
//!     // A test per rule, for a device of your own in place of the reference.
//!     microseq_core::conformance_tests!(microseq_core::dev::HostHarness::new(microseq_core::dev::Reference));
//! }
//! ```
//!
//! [`Reference`] is the simplest device that passes.

pub mod cases;
pub mod conformance;
mod harness;
pub mod oracle;
mod random;
mod reference;
pub mod run;
mod tensor;
mod tolerance;

pub use harness::{ErrorOf, Harness, HostBuffer, HostHarness, PreparedOf, SpaceOf};
pub use random::Random;
pub use reference::{Reference, ReferencePrepared};
pub use tensor::Arrangement;
pub use tolerance::{Distance, Quantity, assert_close, assert_within, tolerance};
