//! Memory of the host that the GPU copies from and to while the host goes on.

use crate::CudaError;
use crate::context::Context;
use std::sync::Arc;

/// Pinned memory, of zeros at first.
pub(crate) struct Pinned {
    context: Arc<Context>,
    begin: *mut u8,
    len: usize,
}

// SAFETY: plain memory, which is not bound to a thread.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn zeros(context: &Arc<Context>, len: usize) -> Result<Self, CudaError> {
        let mut begin = core::ptr::null_mut();
        {
            let _current = context.enter()?;
            // SAFETY: `begin` may be written; a context is current.
            let code = unsafe { (context.driver.host_allocate)(&mut begin, len) };
            context.driver.check_memory("cuMemAllocHost", len, code)?;
        }
        let begin = begin.cast::<u8>();
        // SAFETY: the driver gave so many bytes.
        unsafe { begin.write_bytes(0, len) };
        Ok(Self { context: context.clone(), begin, len })
    }

    /// The address of some of the bytes.
    ///
    /// # Panics
    /// Where they are outside.
    pub(crate) fn at(&self, begin: usize, len: usize) -> *mut u8 {
        assert!(begin <= self.len && len <= self.len - begin, "{len} bytes at {begin} of {}", self.len);
        self.begin.wrapping_add(begin)
    }

    /// Writes words.
    ///
    /// # Safety
    /// No copy from or to these bytes is under way.
    pub(crate) unsafe fn write<const N: usize>(&mut self, begin: usize, words: &[u64; N]) {
        let to = self.at(begin, size_of_val(words));
        // SAFETY: inside (`at` checks); the caller vouches that nothing else uses the bytes.
        unsafe { to.copy_from_nonoverlapping(words.as_ptr().cast(), size_of_val(words)) };
    }

    /// Reads words.
    ///
    /// # Safety
    /// No copy to these bytes is under way.
    pub(crate) unsafe fn read<const N: usize>(&self, begin: usize) -> [u64; N] {
        let mut words = [0u64; N];
        let from = self.at(begin, size_of_val(&words));
        // SAFETY: inside (`at` checks); the caller vouches that nothing writes the bytes.
        unsafe { words.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from, size_of_val(&words)) };
        words
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: taken once in `zeros`, given back once; who owns it waits for its copies first.
            unsafe { (self.context.driver.host_free)(self.begin.cast()) };
        }
    }
}
