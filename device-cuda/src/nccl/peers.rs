//! GPUs of one process that are ranks: each must reach the others' memory.
//!
//! Between ranks of one process NCCL lets a GPU write straight into another's user memory. Memory of the
//! driver's pools, which buffers are taken from, is reached by its own GPU alone until others are let in.

use crate::CudaError;
use crate::driver::Driver;
use core::ffi::c_int;
use cust::sys::{CUdevice, CUmemAccess_flags, CUmemAccessDesc, CUmemLocation, CUmemLocationType};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// GPUs that are or were ranks of this process.
static RANKS: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Whether a GPU of this process may write into another's user memory: then what ranks say must be compared
/// before anything is moved, since a rank that counts otherwise would write where it should not. Asked when
/// ranks have met.
pub(crate) fn write_directly() -> bool {
    let several = RANKS.lock().unwrap_or_else(PoisonError::into_inner).len() > 1;
    several && std::env::var_os("NCCL_P2P_DIRECT_DISABLE").is_none_or(|value| value != "1")
}

/// Lets this GPU and those that are ranks of this process already into each other's pools. A rank does so
/// before it meets the others, so all have when they have met.
pub(crate) fn introduce(ordinal: usize) -> Result<(), CudaError> {
    let mut ranks = RANKS.lock().unwrap_or_else(PoisonError::into_inner);
    for &other in ranks.iter().filter(|&&other| other != ordinal) {
        let_in(ordinal, other)?;
        let_in(other, ordinal)?;
    }
    ranks.insert(ordinal);
    Ok(())
}

/// Lets `guest` into the pool of `host`, if their hardware allows it: where not, NCCL does not try.
fn let_in(host: usize, guest: usize) -> Result<(), CudaError> {
    let driver = Driver::get()?;
    let (host, guest) = (device(driver, host)?, device(driver, guest)?);
    let mut can = 0;
    // SAFETY: `can` may be written; the devices are the driver's.
    driver.check("cuDeviceCanAccessPeer", unsafe { (driver.can_access)(&mut can, guest, host) })?;
    if can == 0 {
        return Ok(());
    }
    let mut pool = core::ptr::null_mut();
    // SAFETY: `pool` may be written; the device is the driver's.
    driver.check("cuDeviceGetMemPool", unsafe { (driver.pool)(&mut pool, host) })?;
    let access = CUmemAccessDesc {
        location: CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: guest },
        flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    // SAFETY: the pool is the driver's; one description is read.
    driver.check("cuMemPoolSetAccess", unsafe { (driver.pool_access)(pool, &access, 1) })
}

fn device(driver: &Driver, ordinal: usize) -> Result<CUdevice, CudaError> {
    let mut device = 0;
    // SAFETY: `device` may be written; numbers of no device are an error.
    driver.check("cuDeviceGet", unsafe { (driver.device)(&mut device, ordinal as c_int) })?;
    Ok(device)
}
