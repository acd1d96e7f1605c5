//! What can go wrong between processes.

use microseq_core::RanksError;
use thiserror::Error;

/// Why the transport over MPI refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MpiError {
    /// Among the ranks.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// MPI returned an error.
    #[error("{call} failed: {reason}")]
    Mpi {
        /// The function of MPI.
        call: &'static str,
        /// What MPI says.
        reason: String,
    },
    /// MPI was not initialised, or was finalised.
    #[error("MPI is not running in this process")]
    NotRunning,
    /// The progress thread could not be started.
    #[error("cannot start the thread that moves rows: {reason}")]
    Thread {
        /// What the system says.
        reason: String,
    },
}
