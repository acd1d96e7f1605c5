//! What the transport needs of a device's memory: buffers of its own, and copies.

use microseq_core::{Device, Host, Scalar, Space};

/// The memory space of a depot's device.
pub(super) type SpaceOf<D> = <<D as Depot>::Device as Device>::Space;

/// The error of a depot's device.
pub(super) type ErrorOf<D> = <<D as Depot>::Device as Device>::Error;

/// A device, and memory of it that ranks share. On the host this is [`HostDepot`].
pub trait Depot {
    /// Copies and adds.
    type Device: Device;
    /// Owned memory, which other ranks may read.
    type Buffer<T: Scalar>: Send + Sync + 'static;

    /// The device.
    fn device(&self) -> &Self::Device;

    /// Makes a buffer.
    ///
    /// # Errors
    /// The device's own: no memory.
    fn allocate<T: Scalar>(&self, elements: usize) -> Result<Self::Buffer<T>, ErrorOf<Self>>;

    /// Lends a whole buffer to read. It may be another rank's.
    fn view<'a, T: Scalar>(&self, buffer: &'a Self::Buffer<T>) -> <SpaceOf<Self> as Space>::Ref<'a, T>;

    /// Lends a whole buffer to write.
    fn view_mut<'a, T: Scalar>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
    ) -> <SpaceOf<Self> as Space>::Mut<'a, T>;

    /// Waits for all that the device was asked to do.
    ///
    /// # Errors
    /// The device's own.
    fn synchronise(&self) -> Result<(), ErrorOf<Self>>;
}

/// A device that works on memory of the host, and is done when its calls return.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDepot<D>(pub D);

impl<D: Device<Space = Host>> Depot for HostDepot<D> {
    type Device = D;
    type Buffer<T: Scalar> = Vec<T>;

    fn device(&self) -> &D {
        &self.0
    }

    fn allocate<T: Scalar>(&self, elements: usize) -> Result<Vec<T>, D::Error> {
        Ok(vec![T::default(); elements])
    }

    fn view<'a, T: Scalar>(&self, buffer: &'a Vec<T>) -> &'a [T] {
        buffer
    }

    fn view_mut<'a, T: Scalar>(&self, buffer: &'a mut Vec<T>) -> &'a mut [T] {
        buffer
    }

    fn synchronise(&self) -> Result<(), D::Error> {
        Ok(())
    }
}
