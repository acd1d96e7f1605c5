//! Working memory: lent as bytes, carved into aligned arrays.

use core::mem::{align_of, size_of};
use std::vec::Vec;

/// Every array begins at a cache line, which is also a vector of the widest instruction set. A caller's
/// memory may begin anywhere: a call asks for one less than this on top.
pub(crate) const ALIGN: usize = 64;

/// Scratch that a caller owns: grows to the largest size ever asked for and stays.
#[derive(Debug, Default)]
pub struct ScratchBuffer {
    bytes: Vec<u8>,
}

impl ScratchBuffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// `bytes` of scratch, of any content. Allocates only where it never was as large before.
    pub fn lend(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() < bytes {
            // The old content is worth nothing: do not have it copied over.
            self.bytes = Vec::new();
            self.bytes = std::vec![0; bytes];
        }
        &mut self.bytes[..bytes]
    }
}

/// Exclusive memory being carved into arrays, from its begin; or a count of what such carving takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carver {
    /// Null where it only counts.
    begin: *mut u8,
    used: usize,
    limit: usize,
}

// SAFETY: a `Carver` stands for exclusive memory of bytes, like `&mut [u8]`; whoever sends it to
// another thread sends that exclusive memory along.
unsafe impl Send for Carver {}
// SAFETY: a shared `Carver` can only be copied or divided; parts of different lanes are disjoint.
unsafe impl Sync for Carver {}

impl Carver {
    /// From the first aligned byte of `bytes` on.
    pub(crate) fn new(bytes: &mut [u8]) -> Self {
        let skip = bytes.as_ptr().align_offset(ALIGN).min(bytes.len());
        let rest = &mut bytes[skip..];
        Self { limit: rest.len(), begin: rest.as_mut_ptr(), used: 0 }
    }

    /// Bytes that are taken where arrays are carved, a multiple of the alignment: carves them out of no
    /// memory.
    pub(crate) fn count<T>(carve: impl FnOnce(&mut Self) -> T) -> usize {
        let mut memory = Self { begin: core::ptr::null_mut(), used: 0, limit: usize::MAX };
        carve(&mut memory);
        memory.used
    }

    /// Takes an array of `len` elements, of unspecified but initialised content.
    ///
    /// # Panics
    /// Where the memory is used up: the caller counted before.
    pub(crate) fn take<T: Plain>(&mut self, len: usize) -> *mut T {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN);
        assert!(bytes <= self.limit - self.used, "scratch carved past its size");
        // Inside the memory, or a null that is never used.
        let array = self.begin.wrapping_add(self.used);
        self.used += bytes;
        array.cast()
    }

    /// The part of lane `lane`, where each has `bytes` bytes (a multiple of the alignment), behind what
    /// was taken so far.
    ///
    /// # Panics
    /// Where the memory is too small for that lane.
    pub(crate) fn lane(&self, lane: usize, bytes: usize) -> Self {
        assert!((lane + 1) * bytes <= self.limit - self.used, "scratch divided past its size");
        Self { begin: self.begin.wrapping_add(self.used + lane * bytes), used: 0, limit: bytes }
    }
}

/// Types for which any bytes are a value, so memory of bytes may hold them.
///
/// # Safety
/// Every bit pattern is valid and there is no padding.
pub(crate) unsafe trait Plain {}

// SAFETY: every bit pattern is an f32.
unsafe impl Plain for f32 {}
// SAFETY: an `AtomicU32` has the representation of a `u32`, of which every bit pattern is valid.
unsafe impl Plain for core::sync::atomic::AtomicU32 {}
