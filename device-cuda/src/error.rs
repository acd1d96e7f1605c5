//! What can go wrong on the CUDA device.

use microseq_core::ShapeError;
use thiserror::Error;

/// Why the CUDA device refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CudaError {
    /// Operands do not fit the call.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// This machine has no NVIDIA driver.
    #[error("no CUDA driver: {reason}")]
    NoDriver {
        /// What the loader says.
        reason: String,
    },
    /// The driver cannot take the modules of this crate.
    #[error("the driver supports CUDA {}.{}, the modules need {}.{}", given / 1000, given % 1000 / 10, needed / 1000, needed % 1000 / 10)]
    DriverTooOld {
        /// The driver's CUDA version, 1000 for each major and 10 for each minor.
        given: i32,
        /// The modules' CUDA version.
        needed: i32,
    },
    /// No device of this number.
    #[error("no CUDA device {ordinal}: the driver shows {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A device without what the kernels are made of.
    #[error("device {ordinal} has compute capability {major}.{minor}, expected 8.0 or more")]
    DeviceTooOld {
        /// The device.
        ordinal: usize,
        /// Its major version.
        major: i32,
        /// Its minor version.
        minor: i32,
    },
    /// The environment asks for kernels that there are not.
    #[error("MICROSEQ_CUDA_KERNELS is {given:?}, expected mma, mma_small or wgmma")]
    UnknownKernels {
        /// The variable's value.
        given: std::ffi::OsString,
    },
    /// The device's memory does not hold what was asked for.
    #[error("the device has no {bytes} bytes left")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// More than the kernels can count.
    #[error("{what} is {given}, the kernels take at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        given: usize,
        /// How large it may be.
        limit: usize,
    },
    /// Metadata that was prepared on another device.
    #[error("the call was prepared for device {prepared}, this is device {device}")]
    PreparedForAnotherDevice {
        /// The device that prepared.
        prepared: usize,
        /// This device.
        device: usize,
    },
    /// A copy between memories of different lengths.
    #[error("cannot copy {from} elements to {to}")]
    Length {
        /// Elements to copy.
        from: usize,
        /// Elements of the destination.
        to: usize,
    },
    /// The driver refused a call. An error of earlier work on the device may come up in a later call.
    #[error("{call} failed with CUDA error {code}: {name}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// What it returned.
        code: u32,
        /// The driver's name for that.
        name: String,
    },
}
