//! Ranks that are processes, over the system's MPI library (feature `mpi`).
//!
//! Rows go from memory to memory: out of one rank's slot or gradient store, straight into the others'
//! slot, or into the place where a sum is taken. All messages are point to point, none is collective,
//! since a collective that a rank does not come to can be neither bounded nor taken back.
//!
//! # How a collective goes
//!
//! 1. Each rank sends every other a notice of what it is about to do: 128 bytes.
//! 2. A rank that has all notices, and finds them the same as its own, posts its transfers. A rank that
//!    lacks one, or finds another, posts none: nobody's does, since all ranks see the same notices. So a
//!    rank that disagrees, left, or does not come leaves no transfer behind that cannot be ended.
//! 3. Of a reduce, each rank adds up what came, rank 0's first.
//!
//! While `during` runs, this goes on in a thread of the group's own if MPI was initialised for
//! `Threading::Multiple`; without, the notices are sent, and the rest happens at the wait.
//!
//! # A rank that dies
//!
//! `mpirun` ends all processes when one exits without `MPI_Finalize`. Where it does not, the others find
//! after the timeout that the rank did not come. If it dies within a transfer which then neither ends nor
//! can be withdrawn, the process is ended with a message and `MPI_Abort`: to return an error would leave
//! MPI writing to memory that the caller has back.

mod engine;
mod error;
mod exchange;
mod ranks;
mod raw;

/// The bindings that communicators come from.
pub use ::mpi as bindings;
pub use error::MpiError;
pub use ranks::MpiRanks;
