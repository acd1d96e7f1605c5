//! How a kernel is launched.

use crate::CudaError;
use crate::cuda::Cuda;
use crate::module::Kernel;
use core::ffi::{c_int, c_uint, c_void};
use core::mem::size_of;
use cust::sys::CUstream;

/// `CUlaunchConfig` of cuda.h.
#[repr(C)]
pub(crate) struct LaunchConfig {
    blocks: [c_uint; 3],
    threads: [c_uint; 3],
    shared: c_uint,
    stream: CUstream,
    attributes: *const LaunchAttribute,
    attribute_count: c_uint,
}
const _: () = assert!(size_of::<LaunchConfig>() == 56);

/// `CUlaunchAttribute` of cuda.h, as far as it is used.
#[repr(C, align(8))]
struct LaunchAttribute {
    id: c_uint,
    _padding: c_uint,
    value: c_int,
    _rest_of_value: [c_int; 15],
}
const _: () = assert!(size_of::<LaunchAttribute>() == 72);

/// The kernel may begin when every block of the one before it in the stream has said so or is through.
/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`.
static BEGINS_EARLY: LaunchAttribute =
    LaunchAttribute { id: 6, _padding: 0, value: 1, _rest_of_value: [0; 15] };

impl Cuda {
    /// Launches a kernel that takes a block of the type `A`.
    pub(crate) fn launch<A>(
        &self,
        kernel: Kernel,
        blocks: usize,
        threads: u32,
        shared: usize,
        mut args: A,
    ) -> Result<(), CudaError> {
        if blocks == 0 {
            return Ok(());
        }
        let driver = self.context().driver;
        let config = LaunchConfig {
            blocks: [blocks as u32, 1, 1],
            threads: [threads, 1, 1],
            shared: shared as u32,
            stream: self.stream().raw(),
            attributes: &raw const BEGINS_EARLY,
            attribute_count: u32::from(kernel.waits),
        };
        let mut parameters = [(&raw mut args).cast::<c_void>()];
        // SAFETY: the kernel takes one parameter, a block of the type `A` (args.rs), which the driver
        // copies before it returns. The context is current, the stream is one of it. What the block
        // points to was checked to hold what the kernel reads and writes, by the caller. A kernel that
        // begins early waits by itself for those before it before it reads or writes memory.
        let code = unsafe {
            (driver.launch)(&config, kernel.function, parameters.as_mut_ptr(), core::ptr::null_mut())
        };
        driver.check("cuLaunchKernelEx", code)
    }
}
