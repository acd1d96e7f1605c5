//! The functions of MPI that are called, with their codes checked.

use super::MpiError;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use microseq_core::{DType, Element};
use mpi::ffi;
use std::time::{Duration, Instant};

/// Whether MPI may be called.
pub(super) fn is_running() -> bool {
    let (mut begun, mut ended) = (0, 0);
    // SAFETY: both may be called at any time, from any thread, and write one `int`.
    unsafe {
        ffi::MPI_Initialized(&mut begun);
        ffi::MPI_Finalized(&mut ended);
    }
    begun != 0 && ended == 0
}

/// Whether several threads may call MPI at once.
pub(super) fn is_threaded() -> bool {
    let mut level = 0;
    // SAFETY: MPI runs (checked before a group is made); one `int` is written. The constant is set when
    // the shim library is loaded.
    unsafe {
        ffi::MPI_Query_thread(&mut level);
        level >= ffi::RSMPI_THREAD_MULTIPLE
    }
}

fn check(call: &'static str, code: c_int) -> Result<(), MpiError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0u8; 1024];
    const _: () = assert!(ffi::MPI_MAX_ERROR_STRING <= 1024);
    let mut length = 0;
    // SAFETY: MPI writes at most MPI_MAX_ERROR_STRING characters, and one `int`.
    let known = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    let reason = match (known, text.get(..usize::try_from(length).unwrap_or(0))) {
        (0, Some(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => format!("code {code}"),
    };
    Err(MpiError::Mpi { call, reason })
}

/// What elements are to MPI. They are moved as unsigned numbers, so that no bit changes.
#[derive(Clone, Copy)]
pub(super) struct Kind(ffi::MPI_Datatype);

impl Kind {
    pub(super) fn of<E: Element>() -> Self {
        // SAFETY: the constants are set when the shim library is loaded, and never change.
        Self(unsafe {
            match E::DTYPE {
                DType::F32 => ffi::RSMPI_UINT32_T,
                DType::F16 | DType::Bf16 => ffi::RSMPI_UINT16_T,
            }
        })
    }

    pub(super) fn word() -> Self {
        // SAFETY: as above.
        Self(unsafe { ffi::RSMPI_UINT64_T })
    }
}

/// A communicator of our own.
#[derive(Clone, Copy)]
pub(super) struct Comm(ffi::MPI_Comm);

impl Comm {
    /// Duplicates a communicator, so that no message of ours meets one of somebody else's, and lets its
    /// errors be returned. `None` where the other ranks do not do the same in time.
    ///
    /// # Safety
    /// MPI runs, and `of` is an intra-communicator of it.
    pub(super) unsafe fn duplicate(of: ffi::MPI_Comm, timeout: Duration) -> Result<Option<Self>, MpiError> {
        // Given up where the others do not come: MPI may write to it at any later time.
        let copy = Box::leak(Box::new(MaybeUninit::<ffi::MPI_Comm>::uninit()));
        // SAFETY: the handle is never initialised before MPI does it; null is what requests begin as.
        let mut request = Request(unsafe { ffi::RSMPI_REQUEST_NULL });
        // SAFETY: the caller vouches for `of`; both places may be written, the first for ever.
        check("MPI_Comm_idup", unsafe { ffi::MPI_Comm_idup(of, copy.as_mut_ptr(), &mut request.0) })?;
        let begin = Instant::now();
        while !request.is_done()? {
            if begin.elapsed() > timeout {
                return Ok(None);
            }
            std::thread::yield_now();
        }
        // SAFETY: the request is done, so MPI has written the handle and writes it no more; the box was
        // leaked here and nothing else refers to it.
        let comm = unsafe { *Box::from_raw(copy).assume_init_mut() };
        // SAFETY: the communicator is ours; the constant is set when the shim library is loaded.
        check("MPI_Comm_set_errhandler", unsafe {
            ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN)
        })?;
        Ok(Some(Self(comm)))
    }

    /// This process's rank, and how many there are.
    pub(super) fn place(self) -> Result<(usize, usize), MpiError> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: the communicator is ours; one `int` each is written.
        unsafe {
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(self.0, &mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(self.0, &mut size))?;
        }
        Ok((rank as usize, size as usize))
    }

    /// Begins to send elements to a rank.
    ///
    /// # Safety
    /// `from` holds so many elements of the kind, and nothing writes them until the request is done.
    pub(super) unsafe fn send(
        self,
        from: *const c_void,
        count: c_int,
        kind: Kind,
        to: usize,
        tag: c_int,
    ) -> Result<Request, MpiError> {
        // SAFETY: null is what requests begin as.
        let mut request = Request(unsafe { ffi::RSMPI_REQUEST_NULL });
        // SAFETY: the caller vouches for the memory; the communicator is ours and has such a rank.
        let code = unsafe { ffi::MPI_Isend(from, count, kind.0, to as c_int, tag, self.0, &mut request.0) };
        check("MPI_Isend", code).map(|()| request)
    }

    /// Begins to receive elements from a rank.
    ///
    /// # Safety
    /// `into` has room for so many elements of the kind, and nothing else touches it until the request is
    /// done.
    pub(super) unsafe fn receive(
        self,
        into: *mut c_void,
        count: c_int,
        kind: Kind,
        from: usize,
        tag: c_int,
    ) -> Result<Request, MpiError> {
        // SAFETY: null is what requests begin as.
        let mut request = Request(unsafe { ffi::RSMPI_REQUEST_NULL });
        // SAFETY: as in `send`.
        let code = unsafe { ffi::MPI_Irecv(into, count, kind.0, from as c_int, tag, self.0, &mut request.0) };
        check("MPI_Irecv", code).map(|()| request)
    }

    /// Gives the communicator back, if MPI still runs.
    ///
    /// # Safety
    /// No request of the communicator is left, and it is used no more.
    pub(super) unsafe fn free(mut self) {
        if is_running() {
            // SAFETY: it was made by `duplicate`; the caller vouches for the rest.
            unsafe { ffi::MPI_Comm_free(&mut self.0) };
        }
    }

    /// Ends all processes.
    pub(super) fn abort(self) -> ! {
        if is_running() {
            // SAFETY: MPI runs.
            unsafe { ffi::MPI_Abort(self.0, 1) };
        }
        std::process::abort()
    }
}

/// A transfer under way.
pub(super) struct Request(ffi::MPI_Request);

impl Request {
    /// Whether the transfer is done. Lets MPI move on.
    pub(super) fn is_done(&mut self) -> Result<bool, MpiError> {
        let mut done = 0;
        // SAFETY: the request is one that MPI gave, or null, which is done; one `int` is written.
        let code = unsafe { ffi::MPI_Test(&mut self.0, &mut done, ffi::RSMPI_STATUS_IGNORE) };
        check("MPI_Test", code).map(|()| done != 0)
    }

    /// Asks MPI to give the transfer up. It is done some time afterwards, as a whole or not at all.
    pub(super) fn cancel(&mut self) {
        // SAFETY: the null request, which must not be cancelled, is left out; any other is MPI's. That it
        // fails changes nothing: the request is still waited for.
        unsafe {
            if self.0 != ffi::RSMPI_REQUEST_NULL {
                ffi::MPI_Cancel(&mut self.0);
            }
        }
    }
}
