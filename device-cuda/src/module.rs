//! The PTX modules, loaded when they are first needed, each once per context.

use crate::CudaError;
use crate::driver::Driver;
use core::ffi::{c_char, c_int};
use cust::sys::{CUfunction, CUfunction_attribute, CUmodule};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Static shared memory that a launch gets without being asked.
const SHARED_WITHOUT_ASKING: usize = 48 * 1024;

macro_rules! sources {
    ($($name:literal)*) => {
        /// `(name, PTX)` of every module in `kernels/modules.txt`.
        const SOURCES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../ptx/", $name, ".ptx")))),*];
    };
}

sources! {
    "forward_mma_f16_64"
    "forward_mma_f16_128"
    "forward_mma_f16_256"
    "forward_mma_bf16_64"
    "forward_mma_bf16_128"
    "forward_mma_bf16_256"
    "backward_mma_f16_64"
    "backward_mma_f16_128"
    "backward_mma_f16_256"
    "backward_mma_bf16_64"
    "backward_mma_bf16_128"
    "backward_mma_bf16_256"
    "backward_mma_small_f16_64"
    "backward_mma_small_f16_128"
    "backward_mma_small_f16_256"
    "backward_mma_small_bf16_64"
    "backward_mma_small_bf16_128"
    "backward_mma_small_bf16_256"
    "forward_wgmma_f16_64"
    "forward_wgmma_f16_96"
    "forward_wgmma_f16_128"
    "forward_wgmma_f16_192"
    "forward_wgmma_f16_256"
    "forward_wgmma_bf16_64"
    "forward_wgmma_bf16_96"
    "forward_wgmma_bf16_128"
    "forward_wgmma_bf16_192"
    "forward_wgmma_bf16_256"
    "backward_wgmma_f16_64"
    "backward_wgmma_f16_96"
    "backward_wgmma_f16_128"
    "backward_wgmma_f16_192"
    "backward_wgmma_f16_256"
    "backward_wgmma_bf16_64"
    "backward_wgmma_bf16_96"
    "backward_wgmma_bf16_128"
    "backward_wgmma_bf16_192"
    "backward_wgmma_bf16_256"
    "prepare_wgmma_f16"
    "prepare_wgmma_bf16"
    "forward_fma_f32_128"
    "forward_fma_f32_256"
    "forward_fma_f32_512"
    "forward_fma_f16_512"
    "forward_fma_bf16_512"
    "backward_dq_fma_f32_128"
    "backward_dq_fma_f32_256"
    "backward_dq_fma_f32_512"
    "backward_dq_fma_f16_512"
    "backward_dq_fma_bf16_512"
    "backward_dkv_fma_f32_128"
    "backward_dkv_fma_f32_256"
    "backward_dkv_fma_f32_512"
    "backward_dkv_fma_f16_512"
    "backward_dkv_fma_bf16_512"
    "prepare_f32"
    "prepare_f16"
    "prepare_bf16"
    "gather_f32"
    "gather_f16"
    "gather_bf16"
    "accumulate_f32"
    "flush_f32"
    "flush_f16"
    "flush_bf16"
}

/// A module that has been loaded, and how long that took: reading PTX includes compiling it for the
/// device, unless the driver has kept the result of an earlier time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedModule {
    /// The module's name, as in `kernels/modules.txt`.
    pub name: &'static str,
    /// How long loading took.
    pub took: Duration,
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) function: CUfunction,
    /// Whether it waits by itself for what comes before it in the stream, and so may begin early.
    pub(crate) waits: bool,
}

// SAFETY: a function handle may be used from every thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

struct Loaded {
    module: CUmodule,
    kernel: Kernel,
    took: Duration,
}

// SAFETY: a module handle may be used from every thread.
unsafe impl Send for Loaded {}

/// A context's loaded modules.
#[derive(Default)]
pub(crate) struct Modules(Mutex<BTreeMap<&'static str, Loaded>>);

impl Modules {
    /// The kernel `entry` of a module; `shared` bytes of shared memory are what its launches ask for.
    /// The modules' context must be current.
    pub(crate) fn kernel(
        &self,
        driver: &Driver,
        name: &str,
        entry: &str,
        shared: usize,
    ) -> Result<Kernel, CudaError> {
        // A panic while the lock was held left the map as it was: an entry goes in at once.
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = loaded.get(name) {
            return Ok(found.kernel);
        }
        let (name, source) = SOURCES
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("kernels/modules.txt has no {name}"));
        let one = load(driver, source, entry, shared)?;
        let kernel = one.kernel;
        loaded.insert(name, one);
        Ok(kernel)
    }

    pub(crate) fn list(&self) -> Vec<LoadedModule> {
        let loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().map(|(name, one)| LoadedModule { name, took: one.took }).collect()
    }

    /// Gives everything back; the modules' context must be current.
    pub(crate) fn unload(&self, driver: &Driver) {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for one in core::mem::take(&mut *loaded).into_values() {
            // SAFETY: loaded once, unloaded once; who holds a kernel holds the context too, and it is
            // being dropped.
            unsafe { (driver.module_unload)(one.module) };
        }
    }
}

fn load(driver: &Driver, source: &str, entry: &str, shared: usize) -> Result<Loaded, CudaError> {
    let begin = Instant::now();
    let waits = source.contains("griddepcontrol.wait");
    let source = CString::new(source).expect("PTX has no zeros in it");
    let entry = CString::new(entry).expect("names have no zeros in them");
    let mut module = core::ptr::null_mut();
    // SAFETY: `module` may be written; the source is PTX and ends in a zero; a context is current.
    let code = unsafe { (driver.module_load)(&mut module, source.as_ptr().cast()) };
    driver.check("cuModuleLoadData", code)?;
    let mut function = core::ptr::null_mut();
    let name: *const c_char = entry.as_ptr();
    // SAFETY: `function` may be written; the module is loaded; the name ends in a zero.
    let code = unsafe { (driver.module_function)(&mut function, module, name) };
    driver.check("cuModuleGetFunction", code)?;
    if shared > SHARED_WITHOUT_ASKING {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as u32;
        // SAFETY: the function lives as long as its module.
        let code = unsafe { (driver.function_attribute)(function, attribute, shared as c_int) };
        driver.check("cuFuncSetAttribute", code)?;
    }
    Ok(Loaded { module, kernel: Kernel { function, waits }, took: begin.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::SOURCES;

    #[test]
    fn every_compiled_module_is_embedded() {
        let listed = include_str!("../kernels/modules.txt").lines().filter_map(|line| {
            let mut fields = line.split('#').next()?.split_whitespace();
            let (source, element) = (fields.next()?, fields.next()?.to_lowercase());
            Some(fields.fold(format!("{source}_{element}"), |name, field| format!("{name}_{field}")))
        });
        let embedded: Vec<_> = SOURCES.iter().map(|(name, _)| (*name).to_string()).collect();
        assert_eq!(embedded, listed.collect::<Vec<_>>());
    }
}
