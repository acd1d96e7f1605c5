//! What can go wrong between threads.

use microseq_core::RanksError;
use thiserror::Error;

/// Why the transport between threads refuses; `D` is the device's error.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum ThreadsError<D: core::error::Error> {
    /// Among the ranks.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// The device that copies.
    #[error("the device failed: {0}")]
    Device(#[source] D),
}
