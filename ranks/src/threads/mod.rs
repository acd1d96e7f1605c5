//! Ranks that are threads of one process.
//!
//! A rank copies what others need into a parcel of its own, says so on a board, and later copies out of
//! the others' parcels. Nothing of one rank's memory is lent to another, so a rank may fail or leave at
//! any time, and there is no `unsafe`. The price is one copy more than a network would make.

mod board;
mod depot;
mod error;
mod ranks;

pub use depot::{Depot, HostDepot};
pub use error::ThreadsError;
pub use ranks::{Seat, ThreadRanks, seats};
