//! The driver's functions, found at run time: a program with this crate in it starts, and runs its
//! other devices, on machines that have no driver.
//!
//! The types are cust's. Its functions are not used: they are linked, which a machine without a
//! driver cannot do, and return an enumeration that newer drivers' codes are not part of.

use crate::CudaError;
use crate::launch::LaunchConfig;
use core::ffi::{c_char, c_int, c_uint, c_void};
use cust::sys::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream};
#[cfg(feature = "nccl")]
use cust::sys::{CUmemAccessDesc, CUmemoryPool};
use libloading::Library;
use std::ffi::CStr;
use std::sync::OnceLock;

/// What the driver's functions return; 0 is success.
pub(crate) type Code = u32;

/// The CUDA version that the kept PTX is made by.
const MODULES_NEED: i32 = 13_000;
const OUT_OF_MEMORY: Code = 2;
const NOT_READY: Code = 600;

macro_rules! driver {
    ($($(#[$when:meta])? $name:ident: $symbol:literal($($type:ty),*);)*) => {
        /// The functions that this crate calls.
        pub(crate) struct Driver {
            $($(#[$when])? pub(crate) $name: unsafe extern "C" fn($($type),*) -> Code,)*
            /// Keeps the functions where they are.
            _library: Library,
        }

        impl Driver {
            fn find(library: Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: cuda.h declares the symbol with these parameters and an `int`-sized
                    // enumeration as result, in every version since the symbol's own `_v2`.
                    $($(#[$when])? $name: *unsafe { library.get($symbol)? },)*
                    _library: library,
                })
            }
        }
    };
}

driver! {
    init: b"cuInit\0"(c_uint);
    version: b"cuDriverGetVersion\0"(*mut c_int);
    error_name: b"cuGetErrorName\0"(Code, *mut *const c_char);
    device_count: b"cuDeviceGetCount\0"(*mut c_int);
    device: b"cuDeviceGet\0"(*mut CUdevice, c_int);
    device_attribute: b"cuDeviceGetAttribute\0"(*mut c_int, c_uint, CUdevice);
    device_name: b"cuDeviceGetName\0"(*mut c_char, c_int, CUdevice);
    primary_retain: b"cuDevicePrimaryCtxRetain\0"(*mut CUcontext, CUdevice);
    primary_release: b"cuDevicePrimaryCtxRelease_v2\0"(CUdevice);
    context_push: b"cuCtxPushCurrent_v2\0"(CUcontext);
    context_pop: b"cuCtxPopCurrent_v2\0"(*mut CUcontext);
    module_load: b"cuModuleLoadData\0"(*mut CUmodule, *const c_void);
    module_unload: b"cuModuleUnload\0"(CUmodule);
    module_function: b"cuModuleGetFunction\0"(*mut CUfunction, CUmodule, *const c_char);
    function_attribute: b"cuFuncSetAttribute\0"(CUfunction, c_uint, c_int);
    launch: b"cuLaunchKernelEx\0"(*const LaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
    tensor_map: b"cuTensorMapEncodeTiled\0"(
        *mut c_void, c_uint, c_uint, *mut c_void, *const u64, *const u64, *const u32, *const u32,
        c_uint, c_uint, c_uint, c_uint
    );
    stream_create: b"cuStreamCreate\0"(*mut CUstream, c_uint);
    stream_create_urgent: b"cuStreamCreateWithPriority\0"(*mut CUstream, c_uint, c_int);
    stream_priorities: b"cuCtxGetStreamPriorityRange\0"(*mut c_int, *mut c_int);
    stream_destroy: b"cuStreamDestroy_v2\0"(CUstream);
    stream_synchronise: b"cuStreamSynchronize\0"(CUstream);
    stream_wait: b"cuStreamWaitEvent\0"(CUstream, CUevent, c_uint);
    event_create: b"cuEventCreate\0"(*mut CUevent, c_uint);
    event_destroy: b"cuEventDestroy_v2\0"(CUevent);
    event_record: b"cuEventRecord\0"(CUevent, CUstream);
    event_query: b"cuEventQuery\0"(CUevent);
    event_synchronise: b"cuEventSynchronize\0"(CUevent);
    event_elapsed: b"cuEventElapsedTime\0"(*mut f32, CUevent, CUevent);
    allocate: b"cuMemAllocAsync\0"(*mut CUdeviceptr, usize, CUstream);
    free: b"cuMemFreeAsync\0"(CUdeviceptr, CUstream);
    #[cfg(feature = "nccl")]
    can_access: b"cuDeviceCanAccessPeer\0"(*mut c_int, CUdevice, CUdevice);
    #[cfg(feature = "nccl")]
    pool: b"cuDeviceGetMemPool\0"(*mut CUmemoryPool, CUdevice);
    #[cfg(feature = "nccl")]
    pool_access: b"cuMemPoolSetAccess\0"(CUmemoryPool, *const CUmemAccessDesc, usize);
    #[cfg(feature = "nccl")]
    host_allocate: b"cuMemAllocHost_v2\0"(*mut *mut c_void, usize);
    #[cfg(feature = "nccl")]
    host_free: b"cuMemFreeHost\0"(*mut c_void);
    upload: b"cuMemcpyHtoDAsync_v2\0"(CUdeviceptr, *const c_void, usize, CUstream);
    download: b"cuMemcpyDtoHAsync_v2\0"(*mut c_void, CUdeviceptr, usize, CUstream);
    fill: b"cuMemsetD8Async\0"(CUdeviceptr, u8, usize, CUstream);
}

impl Driver {
    /// The driver of this machine, initialised.
    pub(crate) fn get() -> Result<&'static Self, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, CudaError> {
        let missing = |error: libloading::Error| CudaError::NoDriver { reason: error.to_string() };
        let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        // SAFETY: the driver's library is made to be loaded so; what its initialisers do is what every
        // CUDA program does.
        let library = unsafe { Library::new(name) }.map_err(missing)?;
        let driver = Self::find(library).map_err(missing)?;
        // SAFETY: cuInit may be called at any time; 0 is the only flag there is.
        let code = unsafe { (driver.init)(0) };
        if code != 0 {
            return Err(CudaError::NoDriver { reason: format!("cuInit: {}", driver.name_of(code)) });
        }
        let mut given = 0;
        // SAFETY: `given` may be written.
        driver.check("cuDriverGetVersion", unsafe { (driver.version)(&mut given) })?;
        if given < MODULES_NEED {
            return Err(CudaError::DriverTooOld { given, needed: MODULES_NEED });
        }
        Ok(driver)
    }

    /// Makes an error of what a call returned.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        Err(CudaError::Driver { call, code, name: self.name_of(code) })
    }

    /// As [`check`](Driver::check), for calls that take memory.
    pub(crate) fn check_memory(&self, call: &'static str, bytes: usize, code: Code) -> Result<(), CudaError> {
        if code == OUT_OF_MEMORY {
            return Err(CudaError::OutOfMemory { bytes });
        }
        self.check(call, code)
    }

    /// As [`check`](Driver::check), for calls that tell whether something is done.
    pub(crate) fn check_done(&self, call: &'static str, code: Code) -> Result<bool, CudaError> {
        if code == NOT_READY {
            return Ok(false);
        }
        self.check(call, code).map(|()| true)
    }

    fn name_of(&self, code: Code) -> String {
        let mut name = core::ptr::null();
        // SAFETY: `name` may be written; unknown codes are answered with an error.
        let found = unsafe { (self.error_name)(code, &mut name) };
        if found != 0 || name.is_null() {
            return "unknown".into();
        }
        // SAFETY: on success the driver gives a constant string that ends in a zero.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}
