//! NCCL's own calls.

use core::ffi::{c_int, c_void};
use libloading::{Library, Symbol};
use microseq_core::{Step, bf16};
use microseq_cuda::nccl::UniqueId;

/// `ncclUniqueId`, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawId([u8; 128]);

type Init = unsafe extern "C" fn(*mut *mut c_void, c_int, RawId, c_int) -> c_int;
type AllGather =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, *mut c_void, *mut c_void) -> c_int;
type ReduceScatter =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;

/// A communicator without anything around it.
pub(crate) struct Bare {
    library: Library,
    handle: *mut c_void,
    rank: usize,
    ranks: usize,
}

impl Bare {
    pub(crate) fn new(id: UniqueId, rank: usize, ranks: usize) -> Self {
        // SAFETY: loaded already, as NCCL.
        let library = unsafe { Library::new("libnccl.so.2") }.unwrap();
        // SAFETY: loaded already, as the driver.
        let driver = unsafe { Library::new("libcuda.so.1") }.unwrap();
        // SAFETY: cuda.h declares them so. The primary context is retained by `Cuda` and stays current on
        // this thread, which is the rank's own.
        unsafe {
            let retain: Symbol<'_, unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int> =
                driver.get(b"cuDevicePrimaryCtxRetain").unwrap();
            let set: Symbol<'_, unsafe extern "C" fn(*mut c_void) -> c_int> =
                driver.get(b"cuCtxSetCurrent").unwrap();
            let mut context = core::ptr::null_mut();
            assert_eq!(retain(&mut context, rank as c_int), 0);
            assert_eq!(set(context), 0);
        }
        let mut handle = core::ptr::null_mut();
        // SAFETY: nccl.h declares it so; one handle is written.
        let code = unsafe {
            let init: Symbol<'_, Init> = library.get(b"ncclCommInitRank").unwrap();
            init(&mut handle, ranks as c_int, RawId(*id.as_bytes()), rank as c_int)
        };
        assert_eq!(code, 0, "ncclCommInitRank");
        Self { library, handle, rank, ranks }
    }

    /// This rank's part of a step, in rows from the store's begin; equal parts.
    fn rows(&self, step: &Step<'_>) -> (usize, usize) {
        let rows = step.write().len() / self.ranks;
        (step.write().start + self.rank * rows, rows)
    }

    pub(crate) fn gather(&self, store: u64, step: &Step<'_>, stream: *mut c_void) {
        let row = 16 * 128 * size_of::<bf16>();
        let (own, rows) = self.rows(step);
        let (from, to) = (store + (own * row) as u64, store + (step.write().start * row) as u64);
        // SAFETY: nccl.h declares it so; rows of a store of this rank.
        let code = unsafe {
            let all_gather: Symbol<'_, AllGather> = self.library.get(b"ncclAllGather").unwrap();
            all_gather(from as *const c_void, to as *mut c_void, rows * row, 0, self.handle, stream)
        };
        assert_eq!(code, 0, "ncclAllGather");
    }

    pub(crate) fn reduce(&self, store: u64, step: &Step<'_>, stream: *mut c_void) {
        let row = 16 * 128;
        let (own, rows) = self.rows(step);
        let at = |rows: usize| store + (rows * row * size_of::<f32>()) as u64;
        let (from, to) = (at(step.write().start), at(own));
        // SAFETY: nccl.h declares it so; rows of a store of this rank.
        let code = unsafe {
            let reduce_scatter: Symbol<'_, ReduceScatter> = self.library.get(b"ncclReduceScatter").unwrap();
            reduce_scatter(from as *const c_void, to as *mut c_void, rows * row, 7, 0, self.handle, stream)
        };
        assert_eq!(code, 0, "ncclReduceScatter");
    }
}
