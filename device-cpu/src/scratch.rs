//! Working memory: lent as bytes, carved into aligned arrays.

use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use std::vec::Vec;

/// Every array begins at a cache line, which is also a vector of the widest instruction set.
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

/// Adds up the arrays that a call will [`Carver::take`], in the same order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    bytes: usize,
}

impl Sizes {
    pub(crate) const fn with<T>(self, len: usize) -> Self {
        Self { bytes: self.bytes + (len * size_of::<T>()).next_multiple_of(ALIGN) }
    }

    /// Bytes of one lane's arrays: a multiple of the alignment.
    pub(crate) const fn bytes(self) -> usize {
        self.bytes
    }

    /// Bytes to ask of a caller, whose memory may begin anywhere.
    pub(crate) const fn unaligned(self) -> usize {
        if self.bytes == 0 { 0 } else { self.bytes + ALIGN - 1 }
    }
}

/// Exclusive memory being carved into arrays, from its begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carver {
    next: NonNull<u8>,
    left: usize,
}

// SAFETY: a `Carver` stands for exclusive memory of bytes, like `&mut [u8]`; whoever sends it to
// another thread sends that exclusive memory along (the contract of `Carver::new`).
unsafe impl Send for Carver {}
// SAFETY: a shared `Carver` can only be copied; what a copy may be used for is the contract of
// `Carver::split`.
unsafe impl Sync for Carver {}

impl Carver {
    /// From the first aligned byte of `bytes` on.
    pub(crate) fn new(bytes: &mut [u8]) -> Self {
        let skip = bytes.as_ptr().align_offset(ALIGN).min(bytes.len());
        let rest = &mut bytes[skip..];
        Self { left: rest.len(), next: NonNull::from(rest).cast() }
    }

    /// Takes an array of `len` elements, of unspecified but initialised content.
    ///
    /// # Panics
    /// Where the memory is used up: the caller sized it with [`Sizes`].
    pub(crate) fn take<T: Plain>(&mut self, len: usize) -> *mut T {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN);
        assert!(bytes <= self.left, "scratch carved past its size");
        let begin = self.next;
        // SAFETY: `bytes <= left`, and `left` bytes from `next` on are one allocation.
        self.next = unsafe { self.next.add(bytes) };
        self.left -= bytes;
        begin.cast().as_ptr()
    }

    /// The part of lane `lane`, where each has `bytes` bytes (a multiple of the alignment).
    ///
    /// # Panics
    /// Where the memory is too small for that lane.
    pub(crate) fn lane(&self, lane: usize, bytes: usize) -> Self {
        assert!((lane + 1) * bytes <= self.left, "scratch split past its size");
        // SAFETY: in bounds by the assertion; `bytes` keeps the alignment.
        Self { next: unsafe { self.next.add(lane * bytes) }, left: bytes }
    }
}

/// Types for which any bytes are a value, so memory of bytes may hold them.
///
/// # Safety
/// Every bit pattern is valid and there is no padding.
pub(crate) unsafe trait Plain {}

// SAFETY: every bit pattern is an f32.
unsafe impl Plain for f32 {}
// SAFETY: every bit pattern is a u8.
unsafe impl Plain for u8 {}
// SAFETY: an `AtomicU32` has the representation of a `u32`, of which every bit pattern is valid.
unsafe impl Plain for core::sync::atomic::AtomicU32 {}
