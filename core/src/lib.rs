//! Planning, slots, views and the [`Device`] trait: everything of microseq that needs no device.
//!
//! The crate is `no_std`, allocates nothing and contains no `unsafe`.
//!
//! # The words
//!
//! A *packed sequence* is *documents* laid end to end, perhaps with padding rows behind the last
//! one. It is processed in *micro-sequences* (*steps*): windows `[begin, end)` taken in order
//! forward and in reverse backward. A layer's *slot* is one K/V store of `tokens` rows and one
//! gradient store of as many, shared by all steps. What a step reads forward and adds to backward
//! is its *window* of the slot, `[first_document_begin, end)`.
//!
//! # For runtimes
//!
//! Data flows one way, and the modules follow it:
//!
//! 1. [`Plan`] checks the document lengths and cuts the sequence into [`Step`]s.
//! 2. A [`Slot`] per layer says which rows a step may touch, and refuses steps out of order.
//! 3. [`Problem`] joins a step (or a plain [`Varlen`] batch) with an [`Attention`] operator;
//!    [`Device::prepare`] turns it into the device's own metadata, once for all layers.
//! 4. Views ([`RowsRef`], [`KvRef`], …) describe memory that the runtime owns.
//! 5. [`Device::gather_into`], [`Device::forward`], [`Device::backward`] do the work;
//!    [`Device::accumulate`] and [`Device::flush`] serve the gradient store.
//! 6. Where several ranks share each step, [`Ranks::gather`] and [`Ranks::reduce`] move rows between
//!    them.
//!
//! # For device authors
//!
//! Implement [`Device`]; [`Host`] is the [`Space`] of ordinary memory. Then run the conformance
//! suite of the feature `dev` over it: one call, or one macro that makes a test per rule.
//!
//! # Out of scope
//!
//! Projections, rotary embeddings, optimisers, autograd, key/value caches with eviction: a runtime
//! has them already.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "dev")]
extern crate std;

mod attention;
mod batch;
mod device;
mod element;
mod indices;
mod kv;
mod layout;
mod mask;
mod plan;
mod ranks;
mod segment;
mod slot;
mod space;
mod step;
mod varlen;
mod view;

#[cfg(feature = "dev")]
pub mod dev;

pub use attention::{Attention, AttentionError, MAX_HEAD_DIM, MAX_HEADS};
pub use batch::{Batch, BatchSegments, Problem, ProblemError, Shape};
pub use device::{Accumulate, Backward, Device, Flush, Forward, Gather, Operand, Pass, Scratch, ShapeError};
pub use element::{DType, Element, Scalar};
pub use half::{bf16, f16};
pub use kv::{KvMut, KvParts, KvRef};
pub use layout::{Layout, ViewError};
pub use mask::Mask;
pub use plan::{Plan, PlanError, Steps};
pub use ranks::{
    Agreement, Alone, Call, Collective, DEFAULT_TIMEOUT, Field, Notice, Occasion, Ranks, RanksError, Run,
    Runs,
};
pub use segment::{Segment, Segments};
pub use slot::{Slot, SlotError};
pub use space::{Host, Space};
pub use step::{CuSeqlens, Step, StepError};
pub use varlen::{Varlen, VarlenError};
pub use view::{RowsMut, RowsRef};
