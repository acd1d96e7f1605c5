//! NCCL's functions, found at run time.

use super::NcclError;
use core::ffi::{c_char, c_int, c_void};
use libloading::Library;
use std::ffi::{CStr, OsStr};
use std::sync::Arc;

/// What NCCL's functions return.
pub(crate) type Code = c_int;

pub(crate) const SUCCESS: Code = 0;
/// The call goes on in the background; so does every one of a communicator that does not block.
pub(crate) const IN_PROGRESS: Code = 7;

/// `ncclInt8`: rows are moved as bytes.
pub(crate) const BYTE: c_int = 0;
/// `ncclFloat32`.
pub(crate) const FLOAT: c_int = 7;
/// `ncclSum`.
pub(crate) const SUM: c_int = 0;

/// The first version whose communicators need not block: `NCCL_VERSION(2, 14, 0)`.
const OLDEST: c_int = 21_400;

/// A communicator's handle, `ncclComm_t`.
pub(crate) type Handle = *mut c_void;

/// `ncclUniqueId`, passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawId(pub(crate) [u8; 128]);

/// The part of `ncclConfig_t` that version 2.14 had; newer ones read `size` and `version`, and take
/// their own defaults for the rest.
#[repr(C)]
pub(crate) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// What C leaves between here and the end, which is copied with the rest.
    padding: c_int,
}

impl Config {
    /// Calls return at once, also where other ranks do not come.
    pub(crate) const NON_BLOCKING: Self = Self {
        size: size_of::<Self>(),
        magic: 0xcafe_beef,
        version: OLDEST as u32,
        blocking: 0,
        padding: c_int::MIN,
    };
}

macro_rules! api {
    ($($name:ident: $symbol:literal($($type:ty),*) -> $result:ty;)*) => {
        /// The functions that this crate calls.
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($type),*) -> $result,)*
        }

        impl Api {
            fn find(library: Library) -> Result<Self, libloading::Error> {
                let api = Self {
                    // SAFETY: nccl.h declares the symbol with these parameters, in every version from
                    // 2.14 on; enumerations are as large as `int`, handles are pointers.
                    $($name: *unsafe { library.get($symbol)? },)*
                };
                // It stays: NCCL has threads, and handlers for the end of the process.
                core::mem::forget(library);
                Ok(api)
            }
        }
    };
}

api! {
    version: b"ncclGetVersion\0"(*mut c_int) -> Code;
    unique_id: b"ncclGetUniqueId\0"(*mut RawId) -> Code;
    init: b"ncclCommInitRankConfig\0"(*mut Handle, c_int, RawId, c_int, *mut Config) -> Code;
    finalise: b"ncclCommFinalize\0"(Handle) -> Code;
    destroy: b"ncclCommDestroy\0"(Handle) -> Code;
    abort: b"ncclCommAbort\0"(Handle) -> Code;
    error_string: b"ncclGetErrorString\0"(Code) -> *const c_char;
    last_error: b"ncclGetLastError\0"(Handle) -> *const c_char;
    async_error: b"ncclCommGetAsyncError\0"(Handle, *mut Code) -> Code;
    count: b"ncclCommCount\0"(Handle, *mut c_int) -> Code;
    device: b"ncclCommCuDevice\0"(Handle, *mut c_int) -> Code;
    rank: b"ncclCommUserRank\0"(Handle, *mut c_int) -> Code;
    group_start: b"ncclGroupStart\0"() -> Code;
    group_end: b"ncclGroupEnd\0"() -> Code;
    all_gather: b"ncclAllGather\0"(*const c_void, *mut c_void, usize, c_int, Handle, *mut c_void) -> Code;
    broadcast: b"ncclBroadcast\0"(
        *const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void
    ) -> Code;
    reduce_scatter: b"ncclReduceScatter\0"(
        *const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void
    ) -> Code;
    reduce: b"ncclReduce\0"(
        *const c_void, *mut c_void, usize, c_int, c_int, c_int, Handle, *mut c_void
    ) -> Code;
}

impl Api {
    /// Makes an error of what a call returned. What goes on in the background is none yet.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<(), NcclError> {
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            _ => Err(NcclError::Nccl { call, code, reason: self.reason(code) }),
        }
    }

    /// What the code means, and what NCCL wrote down last.
    fn reason(&self, code: Code) -> String {
        // SAFETY: any code is answered with a constant string.
        let meaning = text(unsafe { (self.error_string)(code) });
        // SAFETY: the last error is that of the process; the communicator is not looked at.
        let detail = text(unsafe { (self.last_error)(core::ptr::null_mut()) });
        match &detail[..] {
            "" => meaning,
            _ => format!("{meaning} ({})", detail.trim_end()),
        }
    }
}

fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: NCCL gives strings that end in a zero and stay.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// NCCL, loaded. Clones are the same library.
#[derive(Clone)]
pub struct Nccl(pub(crate) Arc<Api>);

impl Nccl {
    /// Loads the `libnccl.so.2` that the system's loader finds; `LD_LIBRARY_PATH` may say where.
    ///
    /// # Errors
    /// [`NcclError::Missing`], [`NcclError::TooOld`].
    pub fn load() -> Result<Self, NcclError> {
        // SAFETY: a library of that name is NCCL, which is made to be loaded so.
        unsafe { Self::open("libnccl.so.2") }
    }

    /// Loads NCCL from a file: one that came with a Python package, say.
    ///
    /// # Errors
    /// As [`load`](Nccl::load).
    ///
    /// # Safety
    /// The file is NCCL: its functions are what nccl.h says.
    pub unsafe fn open(file: impl AsRef<OsStr>) -> Result<Self, NcclError> {
        let missing = |error: libloading::Error| NcclError::Missing { reason: error.to_string() };
        // SAFETY: the caller vouches for the file.
        let library = unsafe { Library::new(file) }.map_err(missing)?;
        let nccl = Self(Arc::new(Api::find(library).map_err(missing)?));
        let given = nccl.version()?;
        if given < OLDEST {
            return Err(NcclError::TooOld { given });
        }
        Ok(nccl)
    }

    /// The version, as NCCL counts: 22705 is 2.27.5.
    ///
    /// # Errors
    /// [`NcclError::Nccl`].
    pub fn version(&self) -> Result<i32, NcclError> {
        let mut version = 0;
        // SAFETY: `version` may be written.
        let code = unsafe { (self.0.version)(&mut version) };
        self.0.check("ncclGetVersion", code).map(|()| version)
    }
}

/// What the ranks of a group find each other by. One rank makes it; the runtime brings its bytes to the
/// others, by whatever means it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; 128]);

impl UniqueId {
    /// A new one, for one group.
    ///
    /// # Errors
    /// [`NcclError::Nccl`].
    pub fn new(nccl: &Nccl) -> Result<Self, NcclError> {
        let mut id = RawId([0; 128]);
        // SAFETY: `id` may be written.
        let code = unsafe { (nccl.0.unique_id)(&mut id) };
        nccl.0.check("ncclGetUniqueId", code).map(|()| Self(id.0))
    }

    /// One that came from another rank.
    pub const fn from_bytes(bytes: [u8; 128]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for the other ranks.
    pub const fn as_bytes(&self) -> &[u8; 128] {
        &self.0
    }

    pub(crate) const fn raw(self) -> RawId {
        RawId(self.0)
    }
}

impl core::fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // It holds addresses of the machine that made it.
        f.write_str("UniqueId")
    }
}
