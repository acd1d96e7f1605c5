//! Where a collective stands among what is given to the two streams.

use crate::CudaError;
use crate::stream::{Event, Stream};

/// The marks of a collective. Made once for each that may be under way: a call makes none.
pub(crate) struct Marks {
    /// All that was to be computed before the rows are moved.
    computed: Event,
    /// All that comes before the rows are moved.
    ready: Event,
    /// All ranks' notices are on the host.
    pub(crate) told: Event,
    /// The rows are moved.
    pub(crate) done: Event,
}

impl Marks {
    pub(crate) fn new(stream: &Stream) -> Result<Self, CudaError> {
        let event = || Event::untimed(stream.context());
        Ok(Self { computed: event()?, ready: event()?, told: event()?, done: event()? })
    }

    /// Lets what is given to `transfers` next wait for what was given to `compute`; and what is given to
    /// `compute` next wait until the former can start, so that it finds room on the GPU. Kernels that fill
    /// the GPU from begin to end would have it wait for their end.
    pub(crate) fn meet(&self, compute: &Stream, transfers: &Stream) -> Result<(), CudaError> {
        compute.mark(&self.computed)?;
        transfers.wait(&self.computed)?;
        transfers.mark(&self.ready)?;
        compute.wait(&self.ready)
    }
}
