//! The CUDA device of microseq: packed attention, forward and backward, on NVIDIA GPUs.
//!
//! f32, f16 and bf16; every head_dim from 1 to 512; multi-head, grouped and multi-query; causal,
//! non-causal, window, scale and softcap. f32 is computed in f32, 16-bit types with f32 sums.
//!
//! Needed to build: Rust, and where there is no CUDA installation `CUDA_LIBRARY_PATH`, naming a folder
//! with an empty folder `lib64` in it: the build script of cust looks for one, though nothing of it is
//! used. A project sets it once, in the table `[env]` of its `.cargo/config.toml`.
//!
//! Needed to run: a driver for CUDA 13.0 or newer (release 580) and a GPU of compute capability 8.0 or
//! more. Without them [`Cuda::new`] returns an error that says so; programs start and their other
//! devices work.
//!
//! # What it promises
//!
//! - `out`, `lse` and `dq` of a document have the same bits whatever is packed around it, wherever it
//!   lies and however the sequence is cut into steps and ranks, as long as its values are finite.
//! - `dk` and `dv` have the same bits from run to run, and for all cuts into steps at multiples of
//!   [`Cuda::dkv_grain`] rows from a document's begin: every cut in f32; in 16-bit types, where the size of a K/V group
//!   is a power of two, 128 rows at most, but with fewer than eight K/V heads, and in windows on compute capability 9.0,
//!   `2048 / group` (one or two heads) or `4096 / group`. In these two cases sums of so many rows at most go to the store by
//!   additions that take numbers below 2^-126 for zeros. It holds for finite values. There are no sums in an order of
//!   chance.
//! - The bits may differ from one kind of GPU to another, and between views whose heads begin at multiples
//!   of 16 bytes and others.
//! - Calls allocate nothing and never wait for the device; after
//!   [`prepare`](microseq_core::Device::prepare) they can be captured in a CUDA graph.
//!
//! 16-bit types are computed on the matrix units up to a head_dim of 256, all else on the ordinary ones, which take
//! dozens of times as long. The environment variable `MICROSEQ_CUDA_KERNELS` keeps a [`Cuda`] that is made from the
//! fastest kernels that its GPU has: `wgmma`, the default, allows all, `mma` those for every GPU, `mma_small` of these
//! only what needs little shared memory, as GPUs of compute capability 8.6, 8.9 and 12.0 have to.
//!
//! # For runtimes
//!
//! Memory comes in through [`DeviceRef::from_raw`] and [`DeviceMut::from_raw`], a stream through
//! [`Cuda::on_stream`]: their contracts are all that is unsafe. A call makes the GPU's primary context
//! current and afterwards puts back what was. Who has no runtime finds [`Buffer`], [`Stream`] and
//! [`Event`] here.
//!
//! The scratch of a backward call grows with the step's queries.

mod args;
mod context;
mod cuda;
mod cuts;
mod driver;
mod error;
#[cfg(feature = "dev")]
mod harness;
mod launch;
mod memory;
mod module;
#[cfg(feature = "nccl")]
pub mod nccl;
mod operand;
mod prepared;
mod schedule;
mod shape;
mod stream;
mod tensor_map;
mod wgmma;

pub use cuda::Cuda;
pub use error::CudaError;
#[cfg(feature = "dev")]
pub use harness::CudaHarness;
pub use memory::{Buffer, DeviceMemory, DeviceMut, DeviceRef};
pub use module::LoadedModule;
pub use prepared::Prepared;
pub use stream::{Event, Stream};
