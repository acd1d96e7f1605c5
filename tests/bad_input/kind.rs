//! One kind of bad input.

use crate::common::bits::bits;
use microseq::Element;
use std::error::Error;

/// What happened on one kind of bad input, as text: errors hold NaN, which equals nothing.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) given: String,
    pub(crate) expected: String,
    pub(crate) message: String,
}

impl Kind {
    /// A result that should have been this error.
    pub(crate) fn new<T, E: Error>(name: impl Into<String>, result: Result<T, E>, expected: E) -> Self {
        let error = result.err();
        Self {
            name: name.into(),
            given: error.as_ref().map_or("no error".into(), |error| format!("{error:?}")),
            expected: format!("{expected:?}"),
            message: error.map_or(String::new(), |error| error.to_string()),
        }
    }
}

/// What buffers to write hold beforehand: no result of attention, and other bits in every element.
pub(crate) fn pattern<E: Element>(n: usize) -> Vec<E> {
    (0..n).map(|i| E::from_f32(-1000.0 - i as f32)).collect()
}

/// Runs `call` on a patterned buffer and checks that the pattern is whole afterwards.
///
/// # Panics
/// With the first element that was written.
#[track_caller]
pub(crate) fn untouched<R>(name: &str, n: usize, call: impl FnOnce(&mut [i32]) -> R) -> R {
    let before: Vec<i32> = (0..n as i32).map(|i| -1000 - i).collect();
    let mut buffer = before.clone();
    let result = call(&mut buffer);
    assert_eq!(buffer, before, "{name}: written to");
    result
}

/// Checks that a buffer still holds its [`pattern`].
///
/// # Panics
/// With both, where it does not.
#[track_caller]
pub(crate) fn assert_pattern<E: Element>(name: &str, buffer: &[E]) {
    assert_eq!(bits(buffer), bits(&pattern::<E>(buffer.len())), "{name}: written to");
}
