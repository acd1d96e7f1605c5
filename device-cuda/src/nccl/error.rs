//! What can go wrong between GPUs.

use crate::CudaError;
use microseq_core::RanksError;
use thiserror::Error;

/// Why the transport over NCCL refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NcclError {
    /// Among the ranks.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// On this rank's GPU.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// This machine has no NCCL, or one that lacks a function.
    #[error("no NCCL: {reason}")]
    Missing {
        /// What the loader says.
        reason: String,
    },
    /// An NCCL before version 2.14, whose calls may block for ever.
    #[error("this is NCCL {}.{}.{}, expected 2.14 or newer", given / 10_000, given / 100 % 100, given % 100)]
    TooOld {
        /// The version, as NCCL counts.
        given: i32,
    },
    /// NCCL returned an error, or one came up in its work.
    #[error("{call} failed with NCCL error {code}: {reason}")]
    Nccl {
        /// The function of NCCL.
        call: &'static str,
        /// What it returned.
        code: i32,
        /// What NCCL says of that.
        reason: String,
    },
    /// A communicator, or a stream, of another GPU.
    #[error("{what} is of device {given}, the stream to compute on is of device {expected}")]
    AnotherDevice {
        /// The communicator or the stream for transfers.
        what: &'static str,
        /// Its device.
        given: usize,
        /// The device of the stream to compute on.
        expected: usize,
    },
    /// The thread that watches could not be started.
    #[error("cannot start the thread that watches collectives: {reason}")]
    Thread {
        /// What the system says.
        reason: String,
    },
}
