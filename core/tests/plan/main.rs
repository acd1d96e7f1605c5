//! Plans against a slow transcription of their definition, which is itself checked against golden
//! data.

mod errors;
mod golden;
mod large;
mod partitions;
mod transcription;
