//! Ranks: several workers that share out every step of a sequence.
//!
//! Each rank owns a share of a step's rows ([`Step::write_share`]). Forward, every rank puts the keys
//! and values of its own rows where they belong in its slot, and [`Ranks::gather`] fills in those of
//! the others. Backward, each rank adds to a gradient store of its own; once a step is sealed,
//! [`Ranks::reduce`] leaves in each rank's own rows the sum over all ranks.
//!
//! # For runtimes
//!
//! Transports are crates of their own: threads and MPI in `microseq-ranks`, NCCL in `microseq-cuda`.
//! [`Alone`] is the group of one rank: it moves nothing. Both collectives take work to do meanwhile,
//! so that memory which is being written or read by other ranks stays borrowed until it is done:
//!
//! ```
//! # use microseq_core::{Alone, Host, KvMut, Layout, Plan, Ranks, RanksError, RowsMut};
//! # fn project_queries() -> usize { 4 }
//! # fn backward_of_the_step_before(_: &mut KvMut<'_, Host, f32>) {}
//! # let plan = Plan::new(&[4, 1, 10], 5).unwrap();
//! # let [before, step] = [plan.steps().nth(0).unwrap(), plan.steps().nth(1).unwrap()];
//! # let (mut slot, mut gradients) = (vec![0.0f32; 15 * 8], vec![0.0f32; 15 * 8]);
//! # let layout = Layout::dense(15, 2, 4);
//! let mut ranks = Alone::<Host>::new();
//! let rows = KvMut::packed(RowsMut::of_slice(&mut slot, layout).unwrap()).unwrap().narrow(step.write()).unwrap();
//! let q = ranks.gather(0, &step, rows, project_queries)?;
//!
//! // The rows of a sealed step travel while the step before it runs backward.
//! let store = KvMut::packed(RowsMut::of_slice(&mut gradients, layout).unwrap()).unwrap();
//! let (mut open, behind) = store.split(step.write().start).unwrap();
//! let sealed = behind.narrow(0..step.write().len()).unwrap();
//! ranks.reduce(0, &step, sealed, || backward_of_the_step_before(&mut open))?;
//! # assert_eq!((q, before.end()), (4, step.write().start));
//! # Ok::<(), RanksError>(())
//! ```
//!
//! # For authors of transports
//!
//! Compare an [`Agreement`] once, when the group is made, and a [`Call`] for every collective, before
//! anything is written; [`Notice`] puts both into words. Let every wait end. After a failure return the same error from then on: where
//! the ranks stand is no longer known.

mod agreement;
mod call;
mod error;
mod notice;
mod runs;

pub use agreement::{Agreement, Field};
pub use call::{Call, Collective};
pub use error::{Occasion, RanksError};
pub use notice::Notice;
pub use runs::{Run, Runs};

use crate::{Element, KvMut, Space, Step};
use core::marker::PhantomData;
use core::time::Duration;

/// How long transports wait for other ranks unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// A group of ranks, as one of them sees it.
///
/// Every rank makes the same calls in the same order. A rank that does not, or does not come, is an
/// error on the others that names it, within the transport's timeout.
///
/// # What holds of the bits
///
/// `out`, `lse` and `dq` do not depend on the number of ranks: a gather copies. `dk` and `dv` are sums
/// over ranks, each rounded to f32, so another number of ranks may change their last bits; for one
/// number of ranks, transports say what they promise.
pub trait Ranks {
    /// The memory that the transport reaches.
    type Space: Space;
    /// What can go wrong; holds at least every [`RanksError`].
    type Error: core::error::Error + From<RanksError> + Send + Sync + 'static;

    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Ranks in the group, at least 1.
    fn size(&self) -> usize;

    /// All-gathers a step's keys and values in place.
    ///
    /// `rows` are the slot's rows [`Step::write`] in layer `layer`. Before the call this rank's own
    /// ([`Step::write_share`]) hold its keys and values; after it, all rows hold those of their ranks.
    /// `during` runs after the transfer was started and before it is waited for; what it returns comes
    /// back. With one rank, nothing is copied.
    ///
    /// A device's calls may be asynchronous ([`Device`](crate::Device)), and so may these of a transport
    /// between devices: later work on the device's queue sees the rows. See [`finish`](Ranks::finish).
    ///
    /// # Errors
    /// [`RanksError::Shape`] and [`RanksError::NotDense`] before anything is written and before `during`
    /// runs; what goes wrong among the ranks, mostly after it. The rows are unspecified then.
    fn gather<E: Element, T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, Self::Space, E>,
        during: impl FnOnce() -> T,
    ) -> Result<T, Self::Error>;

    /// Reduce-scatters the gradients of a sealed step in place, in f32.
    ///
    /// `rows` are rows [`Step::write`] of this rank's gradient store in layer `layer`. After the call
    /// this rank's own ([`Step::write_share`]) hold the sums over all ranks' stores; the other rows are
    /// unspecified, and of no more use. `during` and asynchrony are as in [`gather`](Ranks::gather).
    /// With one rank, nothing is copied.
    ///
    /// # Errors
    /// As [`gather`](Ranks::gather).
    fn reduce<T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, Self::Space, f32>,
        during: impl FnOnce() -> T,
    ) -> Result<T, Self::Error>;

    /// Waits until all collectives so far are done on this rank. Where calls are asynchronous, what
    /// they led to may be relied on only after this: errors of other ranks may come up here first.
    ///
    /// # Errors
    /// What went wrong among the ranks.
    fn finish(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The group of one rank. Nothing is copied, nothing is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone<S>(PhantomData<fn() -> S>);

impl<S> Alone<S> {
    /// The group.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: Space> Ranks for Alone<S> {
    type Space = S;
    type Error = RanksError;

    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather<E: Element, T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, S, E>,
        during: impl FnOnce() -> T,
    ) -> Result<T, RanksError> {
        Call::gather(layer, step, &rows)?;
        Ok(during())
    }

    fn reduce<T>(
        &mut self,
        layer: u32,
        step: &Step<'_>,
        rows: KvMut<'_, S, f32>,
        during: impl FnOnce() -> T,
    ) -> Result<T, RanksError> {
        Call::reduce(layer, step, &rows)?;
        Ok(during())
    }
}
