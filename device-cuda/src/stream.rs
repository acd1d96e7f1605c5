//! Streams and events, of our own or of somebody else.

use crate::CudaError;
use crate::context::Context;
use core::ffi::c_void;
use cust::sys::{CUevent, CUstream};
use std::sync::Arc;
use std::time::Duration;

/// Does not wait for the legacy default stream.
const NON_BLOCKING: u32 = 1;

/// For events that take times.
const TIMED: u32 = 0;
/// For events that do not.
#[cfg(feature = "nccl")]
const UNTIMED: u32 = 2;

/// A queue of work on a device. Clones are the same queue.
#[derive(Clone)]
pub struct Stream(Arc<Handle>);

struct Handle {
    context: Arc<Context>,
    raw: CUstream,
    owned: bool,
}

// SAFETY: a stream handle may be used from every thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Ok(_current) = self.context.enter() {
            // SAFETY: made in `new`, destroyed once; work that is in it still runs to its end.
            unsafe { (self.context.driver.stream_destroy)(self.raw) };
        }
    }
}

impl Stream {
    pub(crate) fn new(context: Arc<Context>) -> Result<Self, CudaError> {
        let mut raw = core::ptr::null_mut();
        {
            let _current = context.enter()?;
            // SAFETY: `raw` may be written and a context is current.
            let code = unsafe { (context.driver.stream_create)(&mut raw, NON_BLOCKING) };
            context.driver.check("cuStreamCreate", code)?;
        }
        Ok(Self(Arc::new(Handle { context, raw, owned: true })))
    }

    /// One whose work starts before that of others, where both wait for room.
    pub(crate) fn urgent(context: Arc<Context>) -> Result<Self, CudaError> {
        let mut raw = core::ptr::null_mut();
        {
            let _current = context.enter()?;
            let (mut least, mut greatest) = (0, 0);
            // SAFETY: both may be written and a context is current.
            let code = unsafe { (context.driver.stream_priorities)(&mut least, &mut greatest) };
            context.driver.check("cuCtxGetStreamPriorityRange", code)?;
            // SAFETY: `raw` may be written and a context is current.
            let code = unsafe { (context.driver.stream_create_urgent)(&mut raw, NON_BLOCKING, greatest) };
            context.driver.check("cuStreamCreateWithPriority", code)?;
        }
        Ok(Self(Arc::new(Handle { context, raw, owned: true })))
    }

    pub(crate) fn foreign(context: Arc<Context>, raw: *mut c_void) -> Self {
        Self(Arc::new(Handle { context, raw: raw.cast(), owned: false }))
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }

    pub(crate) fn raw(&self) -> CUstream {
        self.0.raw
    }

    /// The driver's handle (`CUstream`), for work of your own.
    pub fn as_raw(&self) -> *mut c_void {
        self.0.raw.cast()
    }

    /// Waits for all work given to the stream so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`], also for what went wrong in that work.
    pub fn synchronise(&self) -> Result<(), CudaError> {
        let _current = self.0.context.enter()?;
        let driver = self.0.context.driver;
        // SAFETY: the stream lives.
        driver.check("cuStreamSynchronize", unsafe { (driver.stream_synchronise)(self.0.raw) })
    }

    /// Marks the work given to the stream so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn record(&self) -> Result<Event, CudaError> {
        let event = Event::new(&self.0.context, TIMED)?;
        self.mark(&event)?;
        Ok(event)
    }

    /// Moves a mark to behind the work given to the stream so far. Who waits for the mark already, waits
    /// for where it was.
    pub(crate) fn mark(&self, event: &Event) -> Result<(), CudaError> {
        let _current = self.0.context.enter()?;
        let driver = self.0.context.driver;
        // SAFETY: both live, in the same context.
        driver.check("cuEventRecord", unsafe { (driver.event_record)(event.raw, self.0.raw) })
    }

    /// Lets work given to the stream from now on wait for an event, without waiting on the host.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        let _current = self.0.context.enter()?;
        let driver = self.0.context.driver;
        // SAFETY: both live.
        driver.check("cuStreamWaitEvent", unsafe { (driver.stream_wait)(self.0.raw, event.raw, 0) })
    }
}

/// A mark in a stream.
pub struct Event {
    context: Arc<Context>,
    raw: CUevent,
}

// SAFETY: an event handle may be used from every thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    fn new(context: &Arc<Context>, flags: u32) -> Result<Self, CudaError> {
        let _current = context.enter()?;
        let mut raw = core::ptr::null_mut();
        // SAFETY: `raw` may be written and a context is current.
        context.driver.check("cuEventCreate", unsafe { (context.driver.event_create)(&mut raw, flags) })?;
        Ok(Self { context: context.clone(), raw })
    }

    /// A mark in no stream yet, for order alone: the cheaper kind.
    #[cfg(feature = "nccl")]
    pub(crate) fn untimed(context: &Arc<Context>) -> Result<Self, CudaError> {
        Self::new(context, UNTIMED)
    }

    /// Waits until the work before the mark is done.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn synchronise(&self) -> Result<(), CudaError> {
        let _current = self.context.enter()?;
        let driver = self.context.driver;
        // SAFETY: the event lives.
        driver.check("cuEventSynchronize", unsafe { (driver.event_synchronise)(self.raw) })
    }

    /// Whether the work before the mark is done. Does not wait.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn is_done(&self) -> Result<bool, CudaError> {
        let _current = self.context.enter()?;
        let driver = self.context.driver;
        // SAFETY: the event lives.
        driver.check_done("cuEventQuery", unsafe { (driver.event_query)(self.raw) })
    }

    /// The time on the device from an earlier mark to this one; both must be past.
    ///
    /// # Errors
    /// [`CudaError::Driver`], where one of them is not.
    pub fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        let _current = self.context.enter()?;
        let driver = self.context.driver;
        let mut milliseconds = 0.0;
        // SAFETY: `milliseconds` may be written, the events live.
        let code = unsafe { (driver.event_elapsed)(&mut milliseconds, earlier.raw, self.raw) };
        driver.check("cuEventElapsedTime", code)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: made in `record`, destroyed once.
            unsafe { (self.context.driver.event_destroy)(self.raw) };
        }
    }
}
