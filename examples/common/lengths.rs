//! Document lengths as text: "4,1,10".

use anyhow::{Context, Error};
use std::str::FromStr;

/// Document lengths, in tokens. No text at all is no documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lengths(pub(crate) Vec<u32>);

impl FromStr for Lengths {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(length).collect::<Result<_, _>>().map(Self)
    }
}

fn length(text: &str) -> Result<u32, Error> {
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is not a document length, expected 0 to {}", u32::MAX))
}
