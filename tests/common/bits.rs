//! Equality of bits, which is more than equality of numbers.

use microseq::Element;

/// The bits of elements, signs of 0 and NaN payloads included.
pub(crate) fn bits<E: Element>(elements: &[E]) -> Vec<u32> {
    elements.iter().map(|x| x.to_f32().to_bits()).collect()
}

/// Checks that two tensors have the same bits.
///
/// # Panics
/// With the first element that differs; `what` begins the message.
#[track_caller]
pub(crate) fn assert_same_bits<E: Element>(what: impl std::fmt::Display, given: &[E], expected: &[E]) {
    assert_eq!(given.len(), expected.len(), "{what}: elements");
    let differs = |(a, b): (&E, &E)| a.to_f32().to_bits() != b.to_f32().to_bits();
    if let Some(n) = given.iter().zip(expected).position(differs) {
        panic!("{what}: element {n} is {:?}, expected the bits of {:?}", given[n], expected[n]);
    }
}
