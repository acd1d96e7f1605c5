//! Transports between the ranks of microseq: what implements [`Ranks`] on memory of the host.
//!
//! | transport | between | feature |
//! |---|---|---|
//! | [`ThreadRanks`] | threads of a process, on any device | |
//! | `mpi::MpiRanks` | processes, on one machine or many | `mpi` |
//!
//! Between NVIDIA GPUs there is NCCL, in `microseq-cuda`. One rank alone needs none of them:
//! [`Alone`](microseq_core::Alone) is in core.
//!
//! # What they promise
//!
//! - A rank that was given something else, is at another collective, left, or does not come is an error
//!   that names it, on every other rank, within the timeout ([`DEFAULT_TIMEOUT`] unless set).
//! - `dk` and `dv` are summed in f32 in the order of the ranks, 0 first. So for one number of ranks they
//!   have the same bits in every run and on either transport.
//! - One rank copies nothing and waits for nothing.
//!
//! [`Ranks`]: microseq_core::Ranks
//! [`DEFAULT_TIMEOUT`]: microseq_core::DEFAULT_TIMEOUT

#[cfg(feature = "mpi")]
pub mod mpi;
mod threads;

pub use threads::{Depot, HostDepot, Seat, ThreadRanks, ThreadsError, seats};
