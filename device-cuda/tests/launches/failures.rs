//! Drivers and GPUs that will not do.

use crate::packed::{AMPERE, OLD, Packed};
use crate::pretended::{Test, pretend};
use core::ffi::c_int;
use microseq_core::Attention;
use microseq_cuda::{Cuda, CudaError};
use std::process::Command;

pub(crate) const TESTS: &[Test] = &[
    ("an_old_driver_is_an_error", an_old_driver_is_an_error),
    ("an_old_device_is_an_error", an_old_device_is_an_error),
    ("a_launch_that_fails_is_an_error", a_launch_that_fails_is_an_error),
    ("work_that_fails_is_an_error_of_the_wait", work_that_fails_is_an_error_of_the_wait),
    ("kernels_that_there_are_not_are_an_error", kernels_that_there_are_not_are_an_error),
];

const OLD_DRIVER: (&str, &str) = ("PRETENDED_DRIVER", "12090");
const UNKNOWN_KERNELS: (&str, &str) = ("MICROSEQ_CUDA_KERNELS", "fast");

/// Runs a test of this program in a process whose environment has one more variable: a process looks at its
/// driver once. Whether this is that process.
fn is_under(variable: (&str, &str), test: &str) -> bool {
    if std::env::var(variable.0).as_deref() == Ok(variable.1) {
        return true;
    }
    let own = std::env::current_exe().expect("this program has a name");
    let output = Command::new(own).args(["--exact", test]).env(variable.0, variable.1).output();
    let output = output.expect("this program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn an_old_driver_is_an_error() {
    if is_under(OLD_DRIVER, "an_old_driver_is_an_error") {
        let error = Cuda::new(AMPERE).err().expect("too old");
        assert_eq!(error, CudaError::DriverTooOld { given: 12_090, needed: 13_000 });
        assert_eq!(error.to_string(), "the driver supports CUDA 12.9, the modules need 13.0");
    }
}

fn kernels_that_there_are_not_are_an_error() {
    if is_under(UNKNOWN_KERNELS, "kernels_that_there_are_not_are_an_error") {
        let error = Cuda::new(AMPERE).err().expect("unknown");
        assert_eq!(error, CudaError::UnknownKernels { given: "fast".into() });
        assert_eq!(error.to_string(), "MICROSEQ_CUDA_KERNELS is \"fast\", expected mma, mma_small or wgmma");
    }
}

fn an_old_device_is_an_error() {
    let error = Cuda::new(OLD).err().expect("too old");
    assert_eq!(error, CudaError::DeviceTooOld { ordinal: OLD, major: 7, minor: 5 });
    assert_eq!(error.to_string(), format!("device {OLD} has compute capability 7.5, expected 8.0 or more"));
}

/// What launches and waits of this thread return from now on.
fn fail(launch: c_int, work: c_int) {
    let set: unsafe extern "C" fn(c_int, c_int) = pretend("pretend_failures");
    // SAFETY: gpu.c's.
    unsafe { set(launch, work) };
}

fn packed() -> Packed {
    let attention = Attention::new(4, 2, 64).expect("heads");
    Packed::new(AMPERE, attention, &[10, 20])
}

fn a_launch_that_fails_is_an_error() {
    let packed = packed();
    packed.run().expect("nothing fails");
    fail(719, 0);
    let error = packed.run().expect_err("the launch fails");
    fail(0, 0);
    let (call, name) = ("cuLaunchKernelEx", "CUDA_ERROR_PRETENDED".into());
    assert_eq!(error, CudaError::Driver { call, code: 719, name });
    assert_eq!(error.to_string(), "cuLaunchKernelEx failed with CUDA error 719: CUDA_ERROR_PRETENDED");
    packed.run().expect("nothing fails any more");
}

fn work_that_fails_is_an_error_of_the_wait() {
    let packed = packed();
    fail(0, 700);
    let error = packed.device.stream().synchronise().expect_err("the work fails");
    fail(0, 0);
    assert!(matches!(error, CudaError::Driver { call: "cuStreamSynchronize", code: 700, .. }), "{error}");
}
