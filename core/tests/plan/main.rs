//! Plans against a slow transcription of their definition, which is itself checked against golden
//! data.

mod golden;
mod large;
mod partitions;
mod transcription;
