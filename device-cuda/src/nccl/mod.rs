//! Ranks that are GPUs, over NVIDIA's NCCL (feature `nccl`): those of a host or of many.
//!
//! Rows go straight from slot to slot, and sums straight into gradient stores: NCCL is given the rows'
//! own addresses, on the caller's stream. The library, `libnccl.so.2`, is found at run time; without it
//! [`Nccl::load`] returns an error that says so.
//!
//! # Two streams
//!
//! A group is given a stream to compute on and one for transfers, perhaps the same. A collective goes to
//! the second behind all that was given to the first; what is given to the first while `during` runs
//! overlaps with it; what comes afterwards waits for it, on the device. The host does not wait for the
//! device.
//!
//! What is given while `during` runs begins when the transfer can: all ranks have come. Kernels that fill
//! the GPU from begin to end, as those of attention do, would otherwise keep NCCL's out, and nothing would
//! overlap. With [`Cuda::with_new_urgent_stream`](crate::Cuda::with_new_urgent_stream) for transfers,
//! NCCL's kernels also come before the rest of a kernel that has more blocks than fit.
//!
//! How many of the GPU's multiprocessors NCCL takes while it moves rows is its own choice, unless
//! `NCCL_MAX_CTAS` says less.
//!
//! Collectives cannot be captured in a CUDA graph.
//!
//! # Ranks of one process
//!
//! Between GPUs of one process NCCL lets one write straight into the other's memory, unless
//! `NCCL_P2P_DIRECT_DISABLE=1` is set. Then [`Buffer`]'s memory is opened for that; a runtime's own slots
//! and gradient stores must be within the other GPUs' reach, which memory of pools is not by itself. And
//! the host waits in each collective until all ranks have come and agree, so that none writes where it
//! should not. Set the variable, or take a process for each GPU, and it does not wait.
//!
//! [`Buffer`]: crate::Buffer
//!
//! # When ranks fail
//!
//! Every collective is preceded by one of 128 bytes a rank, that says what is about to be moved; it does
//! not wait for what is computed before. A thread looks at these, at NCCL's own errors and at the time: a rank that is at another collective, has failed
//! or does not come in time breaks the group off within the timeout (`ncclCommAbort`), so that no stream
//! hangs. The error comes up in the next collective or in
//! [`finish`](microseq_core::Ranks::finish), and only after a `finish` without error may results be
//! relied on: unlike between processes, rows may have been moved by then.
//!
//! NCCL knows that ranks are missing, but not which: then the error is
//! [`Stuck`](microseq_core::RanksError::Stuck), which names the collective and no rank.
//!
//! # What holds of the bits
//!
//! `out`, `lse` and `dq` are those of one rank. `dk` and `dv` are summed in f32 by NCCL: in the order of
//! its own choosing, which for two ranks makes no difference; more ranks give the same bits from run to
//! run where NCCL chooses alike (same version, topology and settings).

mod api;
mod communicator;
mod error;
mod marks;
mod peers;
mod pinned;
mod ranks;
mod shared;
mod tags;
mod transfers;

pub use api::{Nccl, UniqueId};
pub use error::NcclError;
pub use ranks::{NcclRanks, Streams};
