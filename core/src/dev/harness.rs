//! What a device's tests need beside the device: owned memory in its space.

use crate::{Attention, DType, Device, Host, Scalar, Space};
use std::vec::Vec;

/// The memory space of a harness's device.
pub type SpaceOf<H> = <<H as Harness>::Device as Device>::Space;

/// The error of a harness's device.
pub type ErrorOf<H> = <<H as Harness>::Device as Device>::Error;

/// The metadata of a harness's device.
pub type PreparedOf<H> = <<H as Harness>::Device as Device>::Prepared;

/// A device under test, with owned memory that it reaches.
///
/// # For device authors
/// Memory of the host: [`HostHarness`] is all you need. Other memory: allocate and copy, as your
/// runtime would. The suite may hold many buffers at once, all of them small.
pub trait Harness {
    /// The device.
    type Device: Device;
    /// Owned memory of the device's space.
    type Buffer<T: Scalar>;

    /// The device.
    fn device(&self) -> &Self::Device;

    /// Makes a buffer that holds `values`, perhaps none.
    fn upload<T: Scalar>(&self, values: &[T]) -> Self::Buffer<T>;

    /// Reads a whole buffer, after everything that the device was asked to do so far.
    fn download<T: Scalar>(&self, buffer: &Self::Buffer<T>) -> Vec<T>;

    /// Lends a whole buffer to read.
    fn view<'a, T: Scalar>(&self, buffer: &'a Self::Buffer<T>) -> <SpaceOf<Self> as Space>::Ref<'a, T>;

    /// Lends a buffer to write, from element `begin` on. The suite uses `begin` to misalign
    /// scratch.
    fn view_mut_from<'a, T: Scalar>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
        begin: usize,
    ) -> <SpaceOf<Self> as Space>::Mut<'a, T>;

    /// Lends a whole buffer to write.
    fn view_mut<'a, T: Scalar>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
    ) -> <SpaceOf<Self> as Space>::Mut<'a, T> {
        self.view_mut_from(buffer, 0)
    }

    /// Waits for everything that the device was asked to do. Called before results are read and
    /// before buffers are dropped.
    fn synchronise(&self) {}

    /// Whether the device takes this operator on elements of this type. Where it says no, the suite
    /// expects [`Device::prepare`] to return an error.
    fn supports(&self, attention: &Attention, dtype: DType) -> bool {
        let _ = (attention, dtype);
        true
    }

    /// For which cuts of a document into steps `dk` and `dv` keep their bits: `Some(1)` for every
    /// cut, `Some(g)` for cuts at multiples of `g` rows from the document's begin, `None` where the
    /// device promises equality from run to run only.
    fn dkv_grain(&self, attention: &Attention, dtype: DType) -> Option<usize> {
        let _ = (attention, dtype);
        None
    }
}

/// The harness of a device that works on the host's memory.
///
/// It claims [`dkv_grain`](Harness::dkv_grain) `None`; see
/// [`with_dkv_grain`](HostHarness::with_dkv_grain).
#[derive(Clone, Debug)]
pub struct HostHarness<D> {
    device: D,
    dkv_grain: fn(DType) -> Option<usize>,
}

impl<D: Device<Space = Host>> HostHarness<D> {
    /// A harness around a device.
    pub fn new(device: D) -> Self {
        Self { device, dkv_grain: |_| None }
    }

    /// Claims a grain for each type, see [`Harness::dkv_grain`].
    #[must_use]
    pub fn with_dkv_grain(mut self, grain: fn(DType) -> Option<usize>) -> Self {
        self.dkv_grain = grain;
        self
    }
}

/// Memory of the host that begins at a cache line, as the memory of runtimes does and that of a `Vec` need not.
/// Vectors that lie across two lines take longer, so what is measured on a buffer is what runtimes will see.
#[derive(Debug)]
pub struct HostBuffer<T> {
    memory: Vec<T>,
    begin: usize,
}

impl<T: Scalar> HostBuffer<T> {
    fn new(values: &[T]) -> Self {
        const LINE: usize = 64;
        let room = LINE / size_of::<T>();
        // Room for all, so that it does not move.
        let mut memory = Vec::<T>::with_capacity(values.len() + room);
        let begin = memory.as_ptr().align_offset(LINE).min(room);
        memory.resize(begin, T::default());
        memory.extend_from_slice(values);
        Self { memory, begin }
    }
}

impl<D: Device<Space = Host>> Harness for HostHarness<D> {
    type Device = D;
    type Buffer<T: Scalar> = HostBuffer<T>;

    fn device(&self) -> &D {
        &self.device
    }

    fn upload<T: Scalar>(&self, values: &[T]) -> HostBuffer<T> {
        HostBuffer::new(values)
    }

    fn download<T: Scalar>(&self, buffer: &HostBuffer<T>) -> Vec<T> {
        self.view(buffer).to_vec()
    }

    fn view<'a, T: Scalar>(&self, buffer: &'a HostBuffer<T>) -> &'a [T] {
        &buffer.memory[buffer.begin..]
    }

    fn view_mut_from<'a, T: Scalar>(&self, buffer: &'a mut HostBuffer<T>, begin: usize) -> &'a mut [T] {
        &mut buffer.memory[buffer.begin + begin..]
    }

    fn dkv_grain(&self, _: &Attention, dtype: DType) -> Option<usize> {
        (self.dkv_grain)(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_line_and_holds_its_values() {
        for len in [0, 1, 15, 16, 1000] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let buffer = HostBuffer::new(&values);
            let held = &buffer.memory[buffer.begin..];
            assert_eq!(held.as_ptr().addr() % 64, 0, "{len} values");
            assert_eq!(held, values);
        }
    }
}
