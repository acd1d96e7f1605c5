//! The operator and the lengths, from a file's metadata: all values are strings.

use crate::common::lengths::Lengths;
use crate::error::CaseError;
use microseq::{Attention, AttentionError};
use std::collections::HashMap;
use std::str::FromStr;

/// A file's metadata.
pub(crate) type Metadata = HashMap<String, String>;

/// The operator of a case: causal, `1 / sqrt(head_dim)`, no window, no softcap, where the metadata
/// says nothing else.
pub(crate) fn attention(
    metadata: &Metadata,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Result<Attention, CaseError> {
    let mut attention = Attention::new(heads, kv_heads, head_dim)?;
    if value::<Flag>(metadata, "causal", "true or false")?.is_some_and(|Flag(causal)| !causal) {
        attention = attention.non_causal();
    }
    let attention = with(attention, value(metadata, "scale", "a number")?, Attention::with_scale)?;
    let attention =
        with(attention, value(metadata, "window", "a number of tokens")?, Attention::with_window)?;
    with(attention, value(metadata, "softcap", "a number")?, Attention::with_softcap)
}

/// The document lengths, where there are any.
pub(crate) fn lengths(metadata: &Metadata) -> Result<Option<Vec<u32>>, CaseError> {
    let lengths = value(metadata, "lengths", "numbers of tokens, separated by commas")?;
    Ok(lengths.map(|Lengths(lengths)| lengths))
}

fn with<T>(
    attention: Attention,
    value: Option<T>,
    set: impl Fn(Attention, T) -> Result<Attention, AttentionError>,
) -> Result<Attention, CaseError> {
    Ok(match value {
        Some(value) => set(attention, value)?,
        None => attention,
    })
}

/// A metadata value; "none", as Python writes it too, is no value.
fn value<T: FromStr>(
    metadata: &Metadata,
    key: &'static str,
    expected: &'static str,
) -> Result<Option<T>, CaseError> {
    let Some(text) = metadata.get(key).map(|text| text.trim()) else { return Ok(None) };
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let parsed = text.parse();
    parsed.map(Some).map_err(|_| CaseError::Metadata { key, value: text.to_owned(), expected })
}

/// A truth value, in Rust's or Python's spelling.
struct Flag(bool);

impl FromStr for Flag {
    type Err = std::str::ParseBoolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_ascii_lowercase().parse().map(Self)
    }
}
