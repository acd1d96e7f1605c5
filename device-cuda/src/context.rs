//! A device's primary context, which every CUDA library of a process shares.

use crate::CudaError;
use crate::cuts::Cuts;
use crate::driver::Driver;
use crate::module::Modules;
use crate::shape::{LITTLE_SHARED, Shape, WgmmaBackward, WgmmaForward};
use core::ffi::{c_int, c_uint};
use cust::sys::{CUcontext, CUdevice, CUdevice_attribute};
use microseq_core::{Attention, DType};
use std::ffi::OsStr;

/// Chooses between the kernels that are for compute capability 9.0 alone (`wgmma`), those for every GPU (`mma`) and
/// those of them that need little shared memory (`mma_small`): to compare them, and to test all on one machine.
const CHOICE: &str = "MICROSEQ_CUDA_KERNELS";

/// What of a device's abilities is to be used.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Choice {
    warpgroups: bool,
    /// Bytes for a block.
    shared: usize,
}

fn chosen(choice: Option<&OsStr>) -> Result<Choice, CudaError> {
    match choice.map(|choice| choice.to_str().unwrap_or("")) {
        None | Some("wgmma") => Ok(Choice { warpgroups: true, shared: usize::MAX }),
        Some("mma") => Ok(Choice { warpgroups: false, shared: usize::MAX }),
        Some("mma_small") => Ok(Choice { warpgroups: false, shared: LITTLE_SHARED }),
        Some(_) => Err(CudaError::UnknownKernels { given: choice.unwrap_or_default().to_os_string() }),
    }
}

/// The primary context of a device, retained, and the modules loaded into it.
pub(crate) struct Context {
    pub(crate) driver: &'static Driver,
    pub(crate) ordinal: usize,
    /// Bytes of shared memory that a block may ask for, and is to.
    pub(crate) shared_limit: usize,
    pub(crate) multiprocessors: usize,
    /// Whether the warpgroup's matrix unit is there and to be used.
    has_warpgroups: bool,
    pub(crate) modules: Modules,
    device: CUdevice,
    raw: CUcontext,
}

// SAFETY: a context handle may be used from every thread; the driver serialises what it must.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn new(ordinal: usize) -> Result<Self, CudaError> {
        let driver = Driver::get()?;
        let mut count = 0;
        // SAFETY: `count` may be written.
        driver.check("cuDeviceGetCount", unsafe { (driver.device_count)(&mut count) })?;
        let none = CudaError::NoDevice { ordinal, count: count as usize };
        let number = c_int::try_from(ordinal).ok().filter(|n| *n < count).ok_or(none)?;
        let mut device = 0;
        // SAFETY: `device` may be written; the number is one of the driver's.
        driver.check("cuDeviceGet", unsafe { (driver.device)(&mut device, number) })?;
        let attribute = |attribute: CUdevice_attribute| {
            let mut value = 0;
            // SAFETY: `value` may be written; the device is the driver's.
            let code = unsafe { (driver.device_attribute)(&mut value, attribute as c_uint, device) };
            driver.check("cuDeviceGetAttribute", code).map(|()| value)
        };
        use CUdevice_attribute as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            return Err(CudaError::DeviceTooOld { ordinal, major, minor });
        }
        let shared = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let choice = chosen(std::env::var_os(CHOICE).as_deref())?;
        let has_warpgroups = choice.warpgroups && (major, minor) == (9, 0);
        let mut raw = core::ptr::null_mut();
        // SAFETY: `raw` may be written; the device is the driver's.
        driver.check("cuDevicePrimaryCtxRetain", unsafe { (driver.primary_retain)(&mut raw, device) })?;
        let modules = Modules::default();
        let shared_limit = choice.shared.min(shared as usize);
        Ok(Self { driver, ordinal, shared_limit, multiprocessors, has_warpgroups, modules, device, raw })
    }

    /// The forward kernel on the warpgroup's matrix unit, where it computes a problem.
    pub(crate) fn wgmma_forward(&self, attention: &Attention, dtype: DType) -> Option<WgmmaForward> {
        self.has_warpgroups.then(|| WgmmaForward::choose(attention, dtype)).flatten()
    }

    /// The backward kernel, likewise.
    pub(crate) fn wgmma_backward(&self, attention: &Attention, dtype: DType) -> Option<WgmmaBackward> {
        self.has_warpgroups.then(|| WgmmaBackward::choose(attention, dtype)).flatten()
    }

    /// Where walks are cut for the other backward kernels: not where these take calls with uneven views only. Such lists
    /// may have millions of parts.
    pub(crate) fn cuts(&self, shape: &Shape, attention: &Attention, dtype: DType) -> Option<Cuts> {
        let seldom = self.wgmma_backward(attention, dtype).is_some();
        if seldom { None } else { shape.cuts(attention) }
    }

    /// Makes the context the thread's current one until the guard goes.
    pub(crate) fn enter(&self) -> Result<Entered<'_>, CudaError> {
        // SAFETY: the context is retained for as long as `self`.
        self.driver.check("cuCtxPushCurrent", unsafe { (self.driver.context_push)(self.raw) })?;
        Ok(Entered(self))
    }

    /// The device's name.
    pub(crate) fn name(&self) -> Result<String, CudaError> {
        let mut name = [0u8; 256];
        // SAFETY: the driver writes at most 255 characters and a zero.
        let code = unsafe { (self.driver.device_name)(name.as_mut_ptr().cast(), 255, self.device) };
        self.driver.check("cuDeviceGetName", code)?;
        let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Ok(_current) = self.enter() {
            self.modules.unload(self.driver);
        }
        // SAFETY: retained once in `new`, released once here; everything that lives in the context
        // (buffers, streams, events) holds an `Arc` of `self` and is gone.
        unsafe { (self.driver.primary_release)(self.device) };
    }
}

/// A thread whose current context is ours; what was current before is current again afterwards.
pub(crate) struct Entered<'a>(&'a Context);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = core::ptr::null_mut();
        // SAFETY: `enter` pushed on this thread (the guard holds a reference into it and is not sent:
        // it lives inside one call), so there is something to pop.
        unsafe { (self.0.driver.context_pop)(&mut popped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_name() {
        let choose = |name: &str| chosen(Some(OsStr::new(name)));
        let all = Choice { warpgroups: true, shared: usize::MAX };
        assert_eq!((chosen(None), choose("wgmma")), (Ok(all), Ok(all)));
        assert_eq!(choose("mma"), Ok(Choice { warpgroups: false, ..all }));
        assert_eq!(choose("mma_small"), Ok(Choice { warpgroups: false, shared: LITTLE_SHARED }));
        assert_eq!(choose("fma"), Err(CudaError::UnknownKernels { given: "fma".into() }));
    }
}
