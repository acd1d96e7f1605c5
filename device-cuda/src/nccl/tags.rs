//! Notices on the device: what each rank says it is about to move, gathered ahead of every collective.

use super::pinned::Pinned;
use super::transfers::Transfer;
use crate::stream::Stream;
use crate::{Buffer, CudaError};
use microseq_core::Notice;

/// A notice in words.
type Words = [u64; Notice::WORDS];

const BYTES: usize = size_of::<Words>();

/// Collectives that may be under way at once.
pub(crate) const SLOTS: usize = 64;

/// A place for every rank's notice, on the device and on the host, for each collective under way.
pub(crate) struct Tags {
    stream: Stream,
    device: Buffer<u8>,
    /// For each slot what this rank says, then what all say.
    host: Pinned,
    rank: usize,
    size: usize,
}

impl Tags {
    /// Of a group, for copies on a stream.
    pub(crate) fn new(stream: &Stream, rank: usize, size: usize) -> Result<Self, CudaError> {
        let too_many = CudaError::OutOfMemory { bytes: usize::MAX };
        let bytes =
            size.checked_mul(SLOTS * BYTES).and_then(|all| Some((all, all.checked_add(SLOTS * BYTES)?)));
        let (device, host) = bytes.ok_or(too_many)?;
        Ok(Self {
            device: Buffer::zeros(stream, device)?,
            host: Pinned::zeros(stream.context(), host)?,
            stream: stream.clone(),
            rank,
            size,
        })
    }

    /// Puts this rank's notice on the device, on the stream; returns how the others' are gathered.
    ///
    /// # Safety
    /// The slot's copies are all done.
    pub(crate) unsafe fn send(&mut self, slot: usize, words: &Words) -> Result<Transfer, CudaError> {
        let from = slot * (self.size + 1) * BYTES;
        // SAFETY: the caller vouches that no copy is under way.
        unsafe { self.host.write(from, words) };
        let receive = self.device.view().address() + (slot * self.size * BYTES) as u64;
        let send = receive + (self.rank * BYTES) as u64;
        let context = self.stream.context();
        let _current = context.enter()?;
        // SAFETY: so many bytes are in the buffer and in pinned memory, neither of which is touched before
        // the copy is done.
        let code = unsafe {
            (context.driver.upload)(send, self.host.at(from, BYTES).cast(), BYTES, self.stream.raw())
        };
        context.driver.check("cuMemcpyHtoDAsync", code)?;
        Ok(Transfer::AllGather { send, receive, bytes: BYTES })
    }

    /// Copies what all ranks say to the host, on the stream.
    pub(crate) fn fetch(&mut self, slot: usize) -> Result<(), CudaError> {
        let bytes = self.size * BYTES;
        let from = self.device.view().address() + (slot * bytes) as u64;
        let into = self.host.at((slot * (self.size + 1) + 1) * BYTES, bytes);
        let context = self.stream.context();
        let _current = context.enter()?;
        // SAFETY: as in `send`.
        let code = unsafe { (context.driver.download)(into.cast(), from, bytes, self.stream.raw()) };
        context.driver.check("cuMemcpyDtoHAsync", code)
    }

    /// What a rank said.
    ///
    /// # Safety
    /// The slot's copies are all done.
    pub(crate) unsafe fn said(&self, slot: usize, rank: usize) -> Words {
        // SAFETY: the caller vouches that no copy is under way.
        unsafe { self.host.read((slot * (self.size + 1) + 1 + rank) * BYTES) }
    }
}
