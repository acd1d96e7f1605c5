//! Device memory: views that borrow it, and a buffer that owns some.

use crate::CudaError;
use crate::stream::Stream;
use core::marker::PhantomData;
use core::mem::size_of;
use cust::sys::CUdeviceptr;
use microseq_core::{Scalar, Space};

/// The memory of a CUDA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceMemory {}

/// Device memory to read: an address, a length in elements, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRef<'a, T> {
    address: u64,
    len: usize,
    lifetime: PhantomData<&'a [T]>,
}

/// Device memory to write.
#[derive(Debug)]
pub struct DeviceMut<'a, T> {
    address: u64,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T> DeviceRef<'_, T> {
    /// Borrows foreign memory, without a copy.
    ///
    /// # Safety
    /// For as long as `'a`, and until all work that was given the view is done on the device:
    /// - `address` is that of `len` elements of memory that the device of the calls can read, aligned
    ///   to an element;
    /// - work that writes it is ordered with the calls' stream: done before, or begun after.
    pub const unsafe fn from_raw(address: u64, len: usize) -> Self {
        Self { address, len, lifetime: PhantomData }
    }

    /// The address on the device.
    pub const fn address(&self) -> u64 {
        self.address
    }
}

impl<T> DeviceMut<'_, T> {
    /// Borrows foreign memory, without a copy.
    ///
    /// # Safety
    /// For as long as `'a`, and until all work that was given the view is done on the device:
    /// - `address` is that of `len` elements of memory that the device of the calls can read and
    ///   write, aligned to an element;
    /// - work that reads or writes it is ordered with the calls' stream: done before, or begun after.
    pub const unsafe fn from_raw(address: u64, len: usize) -> Self {
        Self { address, len, lifetime: PhantomData }
    }

    /// The address on the device.
    pub const fn address(&self) -> u64 {
        self.address
    }
}

impl Space for DeviceMemory {
    type Ref<'a, T: Scalar> = DeviceRef<'a, T>;
    type Mut<'a, T: Scalar> = DeviceMut<'a, T>;

    fn len<T: Scalar>(memory: &DeviceRef<'_, T>) -> usize {
        memory.len
    }

    fn len_mut<T: Scalar>(memory: &DeviceMut<'_, T>) -> usize {
        memory.len
    }

    fn shorten<'s, 'a: 's, T: Scalar>(memory: DeviceRef<'a, T>) -> DeviceRef<'s, T> {
        DeviceRef { address: memory.address, len: memory.len, lifetime: PhantomData }
    }

    fn reborrow<'s, 'a: 's, T: Scalar>(memory: &'s mut DeviceMut<'a, T>) -> DeviceMut<'s, T> {
        DeviceMut { address: memory.address, len: memory.len, lifetime: PhantomData }
    }

    fn split_mut<'s, 'a: 's, T: Scalar>(
        memory: DeviceMut<'a, T>,
        at: usize,
    ) -> (DeviceMut<'s, T>, DeviceMut<'s, T>) {
        assert!(at <= memory.len, "element {at} of memory of {}", memory.len);
        let behind = memory.address + (at * size_of::<T>()) as u64;
        (
            DeviceMut { address: memory.address, len: at, lifetime: PhantomData },
            DeviceMut { address: behind, len: memory.len - at, lifetime: PhantomData },
        )
    }

    fn freeze<'s, 'a: 's, T: Scalar>(memory: &'s DeviceMut<'a, T>) -> DeviceRef<'s, T> {
        DeviceRef { address: memory.address, len: memory.len, lifetime: PhantomData }
    }
}

/// Device memory of its own, taken and freed in the order of a stream: work given to the stream before
/// the buffer is dropped may still use it.
pub struct Buffer<T: Scalar> {
    stream: Stream,
    address: CUdeviceptr,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Scalar> Buffer<T> {
    /// `len` elements of zeros.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Driver`].
    pub fn zeros(stream: &Stream, len: usize) -> Result<Self, CudaError> {
        let buffer = Self::uninitialised(stream, len)?;
        if len > 0 {
            let _current = stream.context().enter()?;
            let driver = stream.context().driver;
            // SAFETY: the buffer holds so many bytes and the stream is one of its context.
            let code = unsafe { (driver.fill)(buffer.address, 0, buffer.bytes(), stream.raw()) };
            driver.check("cuMemsetD8Async", code)?;
        }
        Ok(buffer)
    }

    /// A copy of `values`, which may be dropped afterwards.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Driver`].
    pub fn from_slice(stream: &Stream, values: &[T]) -> Result<Self, CudaError> {
        let mut buffer = Self::uninitialised(stream, values.len())?;
        buffer.upload(values)?;
        Ok(buffer)
    }

    /// Its bytes are unspecified until something writes them: not for the public.
    fn uninitialised(stream: &Stream, len: usize) -> Result<Self, CudaError> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(CudaError::OutOfMemory { bytes: usize::MAX })?;
        let mut address = 0;
        if bytes > 0 {
            let _current = stream.context().enter()?;
            let driver = stream.context().driver;
            // SAFETY: `address` may be written and the stream is one of the current context.
            let code = unsafe { (driver.allocate)(&mut address, bytes, stream.raw()) };
            driver.check_memory("cuMemAllocAsync", bytes, code)?;
        }
        Ok(Self { stream: stream.clone(), address, len, elements: PhantomData })
    }

    /// Replaces the content. Returns when `values` has been read.
    ///
    /// # Errors
    /// [`CudaError::Length`], [`CudaError::Driver`].
    pub fn upload(&mut self, values: &[T]) -> Result<(), CudaError> {
        if values.len() != self.len {
            return Err(CudaError::Length { from: values.len(), to: self.len });
        }
        if self.len == 0 {
            return Ok(());
        }
        let _current = self.stream.context().enter()?;
        let driver = self.stream.context().driver;
        // SAFETY: both hold so many bytes; waiting for the stream keeps `values` until it is read, also
        // where it lies in pinned memory.
        let code =
            unsafe { (driver.upload)(self.address, values.as_ptr().cast(), self.bytes(), self.stream.raw()) };
        driver.check("cuMemcpyHtoDAsync", code)?;
        self.stream.synchronise()
    }

    /// Copies the content to the host, after the work given to the stream so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn download(&self) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::default(); self.len];
        if self.len > 0 {
            let _current = self.stream.context().enter()?;
            let driver = self.stream.context().driver;
            // SAFETY: both hold so many bytes, every pattern of which is a `T`; waiting for the stream
            // keeps `values` until it is written.
            let code = unsafe {
                (driver.download)(values.as_mut_ptr().cast(), self.address, self.bytes(), self.stream.raw())
            };
            driver.check("cuMemcpyDtoHAsync", code)?;
            self.stream.synchronise()?;
        }
        Ok(values)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lends the buffer to read.
    pub fn view(&self) -> DeviceRef<'_, T> {
        DeviceRef { address: self.address, len: self.len, lifetime: PhantomData }
    }

    /// Lends the buffer to write.
    pub fn view_mut(&mut self) -> DeviceMut<'_, T> {
        self.view_mut_from(0)
    }

    /// Lends the buffer to write, from element `begin` on.
    ///
    /// # Panics
    /// Where `begin` is behind the end.
    pub fn view_mut_from(&mut self, begin: usize) -> DeviceMut<'_, T> {
        assert!(begin <= self.len, "element {begin} of a buffer of {}", self.len);
        let address = self.address + (begin * size_of::<T>()) as u64;
        DeviceMut { address, len: self.len - begin, lifetime: PhantomData }
    }

    fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: Scalar> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        if let Ok(_current) = self.stream.context().enter() {
            // SAFETY: taken once from this context, freed once, in the order of the stream that all
            // safe work with it was given to.
            unsafe { (self.stream.context().driver.free)(self.address, self.stream.raw()) };
        }
    }
}
