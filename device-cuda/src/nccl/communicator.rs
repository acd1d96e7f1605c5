//! A communicator: waiting without end is never left to NCCL.

use super::api::{Api, BYTE, Config, FLOAT, Handle, IN_PROGRESS, Nccl, SUCCESS, SUM, UniqueId};
use super::error::NcclError;
use super::transfers::Transfer;
use core::ffi::{c_int, c_void};
use microseq_core::{Occasion, RanksError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at what goes on in the background.
const NAP: Duration = Duration::from_micros(20);

/// So long there is no nap between looks: a launch takes about a hundred microseconds, most of it the start
/// of a thread by NCCL, and naps are longer than they say.
const AWAKE: Duration = Duration::from_millis(1);

/// A communicator of our own, or a runtime's.
pub(crate) struct Communicator {
    api: Arc<Api>,
    handle: Handle,
    owned: bool,
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

// SAFETY: a communicator may be used from every thread, by one at a time; all use is through `&mut`.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Makes one, with the ranks that have the same id. The GPU's context is current.
    pub(crate) fn new(
        nccl: &Nccl,
        id: UniqueId,
        (rank, size): (usize, usize),
        timeout: Duration,
    ) -> Result<Self, NcclError> {
        let number = |what, given: usize| {
            let limit = c_int::MAX as usize;
            c_int::try_from(given).map_err(|_| RanksError::TooLarge { what, given, limit })
        };
        let (raw_rank, raw_size) = (number("the rank", rank)?, number("the number of ranks", size)?);
        let mut communicator =
            Self { api: nccl.0.clone(), handle: core::ptr::null_mut(), owned: true, rank, size };
        let mut config = Config::NON_BLOCKING;
        // SAFETY: the handle may be written; NCCL does so before it returns, though the rest of the work goes
        // on in the background. The configuration is read before the call returns.
        let code = unsafe {
            (communicator.api.init)(&mut communicator.handle, raw_size, id.raw(), raw_rank, &mut config)
        };
        let begun = communicator.api.check("ncclCommInitRankConfig", code);
        let made = begun.and_then(|()| communicator.settle(Occasion::Making, timeout));
        if let Err(error) = made {
            communicator.abort();
            return Err(error);
        }
        Ok(communicator)
    }

    /// Borrows a runtime's.
    ///
    /// # Safety
    /// The handle is a communicator of this library, and lives until the one returned is dropped.
    pub(crate) unsafe fn borrowed(nccl: &Nccl, handle: Handle) -> Result<Self, NcclError> {
        let api = nccl.0.clone();
        let (mut rank, mut size) = (0, 0);
        // SAFETY: the caller vouches for the handle; one `int` each is written.
        unsafe {
            api.check("ncclCommUserRank", (api.rank)(handle, &mut rank))?;
            api.check("ncclCommCount", (api.count)(handle, &mut size))?;
        }
        Ok(Self { api, handle, owned: false, rank: rank as usize, size: size as usize })
    }

    /// The GPU that it is of.
    pub(crate) fn device(&self) -> Result<usize, NcclError> {
        let mut device = 0;
        // SAFETY: the communicator lives; one `int` is written.
        let code = unsafe { (self.api.device)(self.handle, &mut device) };
        self.api.check("ncclCommCuDevice", code).map(|()| device as usize)
    }

    /// Whether a failure can be followed by [`abort`](Communicator::abort).
    pub(crate) fn is_owned(&self) -> bool {
        self.owned
    }

    /// What has gone wrong in the background, if anything. `false` where it still goes on.
    pub(crate) fn state(&mut self) -> Result<bool, NcclError> {
        if self.handle.is_null() {
            return Ok(true);
        }
        let mut state = SUCCESS;
        // SAFETY: the communicator lives; one `int` is written.
        let code = unsafe { (self.api.async_error)(self.handle, &mut state) };
        self.api.check("ncclCommGetAsyncError", code)?;
        self.api.check("NCCL's work", state)?;
        Ok(state != IN_PROGRESS)
    }

    /// Waits until nothing goes on in the background: calls are made, work is on its stream.
    pub(crate) fn settle(&mut self, occasion: Occasion, timeout: Duration) -> Result<(), NcclError> {
        let begin = Instant::now();
        while !self.state()? {
            let waited = begin.elapsed();
            if waited > timeout {
                return Err(RanksError::Stuck { occasion, waited: timeout }.into());
            }
            match waited < AWAKE {
                true => std::thread::yield_now(),
                false => std::thread::sleep(NAP),
            }
        }
        Ok(())
    }

    /// Puts transfers on a stream, as one.
    ///
    /// # Safety
    /// The memory of the transfers is this rank's, and lasts until they are done on the stream, which is
    /// one of the communicator's GPU.
    pub(crate) unsafe fn put(
        &mut self,
        transfers: &[Transfer],
        stream: *mut c_void,
        occasion: Occasion,
        timeout: Duration,
    ) -> Result<(), NcclError> {
        // SAFETY: groups are of the calling thread; this one ends below.
        self.api.check("ncclGroupStart", unsafe { (self.api.group_start)() })?;
        let put = transfers.iter().try_for_each(|transfer| {
            // SAFETY: the caller vouches for memory and stream.
            unsafe { self.put_one(transfer, stream) }
        });
        // SAFETY: begun above.
        let ended = self.api.check("ncclGroupEnd", unsafe { (self.api.group_end)() });
        put.and(ended)?;
        self.settle(occasion, timeout)
    }

    /// # Safety
    /// As [`put`](Communicator::put).
    unsafe fn put_one(&mut self, transfer: &Transfer, stream: *mut c_void) -> Result<(), NcclError> {
        let (api, comm) = (&self.api, self.handle);
        let (from, to) = (|address: u64| address as *const c_void, |address: u64| address as *mut c_void);
        // SAFETY: the caller vouches for memory and stream; the communicator lives; roots are ranks of it.
        unsafe {
            match *transfer {
                Transfer::AllGather { send, receive, bytes } => api.check(
                    "ncclAllGather",
                    (api.all_gather)(from(send), to(receive), bytes, BYTE, comm, stream),
                ),
                Transfer::Broadcast { at, bytes, root } => api.check(
                    "ncclBroadcast",
                    (api.broadcast)(from(at), to(at), bytes, BYTE, root as c_int, comm, stream),
                ),
                Transfer::ReduceScatter { send, receive, elements } => api.check(
                    "ncclReduceScatter",
                    (api.reduce_scatter)(from(send), to(receive), elements, FLOAT, SUM, comm, stream),
                ),
                Transfer::Reduce { at, elements, root } => api.check(
                    "ncclReduce",
                    (api.reduce)(from(at), to(at), elements, FLOAT, SUM, root as c_int, comm, stream),
                ),
            }
        }
    }

    /// Ends what runs on the GPU, and the communicator with it. Not a runtime's.
    pub(crate) fn abort(&mut self) {
        if self.owned && !self.handle.is_null() {
            // SAFETY: it is ours, lives, and is forgotten here.
            unsafe { (self.api.abort)(self.handle) };
            self.handle = core::ptr::null_mut();
        }
    }

    /// Gives a communicator back whose work is done, together with the other ranks.
    pub(crate) fn close(&mut self, timeout: Duration) {
        if !self.owned || self.handle.is_null() {
            return;
        }
        // SAFETY: it is ours and lives.
        let finalised = self.api.check("ncclCommFinalize", unsafe { (self.api.finalise)(self.handle) });
        match finalised.and_then(|()| self.settle(Occasion::Making, timeout)) {
            Ok(()) => {
                // SAFETY: it is ours, its work is done, and it is forgotten here.
                unsafe { (self.api.destroy)(self.handle) };
                self.handle = core::ptr::null_mut();
            }
            Err(_) => self.abort(),
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Nothing where it was closed.
        self.abort();
    }
}
