//! The device as core's drivers and conformance suite take it.

use crate::{Buffer, Cuda, DeviceMut, DeviceRef};
use microseq_core::dev::Harness;
use microseq_core::{Attention, DType, Scalar};

/// A GPU with owned memory, for tests and examples (feature `dev`).
///
/// # Panics
/// Its methods, where the GPU's memory is full or the GPU fails: the suite could do nothing else.
#[derive(Clone)]
pub struct CudaHarness {
    device: Cuda,
    only: Option<DType>,
}

impl CudaHarness {
    /// A harness around a device.
    pub fn new(device: Cuda) -> Self {
        Self { device, only: None }
    }

    /// One for elements of a type alone: rules of many types by parts, for tools that make them slow.
    pub fn of_type(device: Cuda, only: DType) -> Self {
        Self { device, only: Some(only) }
    }
}

impl Harness for CudaHarness {
    type Device = Cuda;
    type Buffer<T: Scalar> = Buffer<T>;

    fn device(&self) -> &Cuda {
        &self.device
    }

    fn upload<T: Scalar>(&self, values: &[T]) -> Buffer<T> {
        Buffer::from_slice(self.device.stream(), values).expect("the device has memory")
    }

    fn download<T: Scalar>(&self, buffer: &Buffer<T>) -> Vec<T> {
        buffer.download().expect("the device works")
    }

    fn view<'a, T: Scalar>(&self, buffer: &'a Buffer<T>) -> DeviceRef<'a, T> {
        buffer.view()
    }

    fn view_mut_from<'a, T: Scalar>(&self, buffer: &'a mut Buffer<T>, begin: usize) -> DeviceMut<'a, T> {
        buffer.view_mut_from(begin)
    }

    fn synchronise(&self) {
        self.device.stream().synchronise().expect("the device works");
    }

    fn supports(&self, _: &Attention, dtype: DType) -> bool {
        self.only.is_none_or(|only| only == dtype)
    }

    fn dkv_grain(&self, attention: &Attention, dtype: DType) -> Option<usize> {
        Some(self.device.dkv_grain(attention, dtype))
    }
}
