//! When a result counts as right.
//!
//! Fast-LLM's rule: `rms(a - b) <= max(tolerance * sqrt(mean((a^2 + b^2) / 2)), 1e-7)`.

use crate::DType;

/// No result needs to come nearer than this.
const FLOOR: f64 = 1e-7;

/// What a tensor is, since tolerances differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// The attention's output.
    Out,
    /// The logsumexp. It is f32 for every element type; 16-bit devices may use approximate
    /// exponentials and hyperbolic tangents.
    Lse,
    /// A gradient: of queries, keys or values.
    Gradient,
}

/// The tolerance for a quantity computed from elements of a type.
pub const fn tolerance(quantity: Quantity, dtype: DType) -> f64 {
    match (quantity, dtype) {
        (_, DType::F32) => 1e-5,
        (Quantity::Out, DType::Bf16) => 5e-3,
        (Quantity::Gradient, DType::Bf16) => 1.5e-2,
        (Quantity::Out, DType::F16) => 1e-3,
        (Quantity::Gradient, DType::F16) => 3e-3,
        (Quantity::Lse, DType::F16 | DType::Bf16) => 1e-3,
    }
}

/// How far a result is from what was expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// `rms(given - expected)`; infinite where one is finite and the other is not, or is NaN.
    pub rms: f64,
    /// `sqrt(mean((given^2 + expected^2) / 2))`.
    pub magnitude: f64,
}

impl Distance {
    /// The distance of two tensors. Equal infinities have distance 0 and count as magnitude 0.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn between(given: &[f64], expected: &[f64]) -> Self {
        assert_eq!(given.len(), expected.len(), "tensors of different sizes");
        let count = given.len().max(1) as f64;
        let pairs = || given.iter().copied().zip(expected.iter().copied());
        let differences: f64 = pairs().map(|(a, b)| squared_difference(a, b)).sum();
        let squares: f64 =
            pairs().filter(|(a, b)| a.is_finite() && b.is_finite()).map(|(a, b)| (a * a + b * b) / 2.0).sum();
        Self { rms: (differences / count).sqrt(), magnitude: (squares / count).sqrt() }
    }

    /// Whether the distance is within a tolerance.
    pub fn within(&self, tolerance: f64) -> bool {
        self.rms <= (tolerance * self.magnitude).max(FLOOR)
    }
}

fn squared_difference(a: f64, b: f64) -> f64 {
    if a == b {
        return 0.0;
    }
    let difference = a - b;
    if difference.is_finite() { difference * difference } else { f64::INFINITY }
}

/// Checks a tensor against what was expected, with the tolerance of its quantity.
///
/// # Panics
/// Where it is further away; `what` begins the message.
#[track_caller]
pub fn assert_close(what: &str, quantity: Quantity, dtype: DType, given: &[f64], expected: &[f64]) {
    assert_within(what, tolerance(quantity, dtype), given, expected);
}

/// Checks a tensor against what was expected.
///
/// # Panics
/// Where it is further away than the tolerance; `what` begins the message.
#[track_caller]
pub fn assert_within(what: &str, tolerance: f64, given: &[f64], expected: &[f64]) {
    let distance = Distance::between(given, expected);
    assert!(
        distance.within(tolerance),
        "{what}: rms {:e} from what was expected, magnitude {:e}, tolerance {tolerance:e}; first far element: {:?}",
        distance.rms,
        distance.magnitude,
        first_far(given, expected, (tolerance * distance.magnitude).max(FLOOR)),
    );
}

/// The first element that is further off than `limit`: its place, what it is, what it should be.
fn first_far(given: &[f64], expected: &[f64], limit: f64) -> Option<(usize, f64, f64)> {
    let far = |(_, (a, b)): &(usize, (&f64, &f64))| squared_difference(**a, **b) > limit * limit;
    given.iter().zip(expected).enumerate().find(far).map(|(place, (a, b))| (place, *a, *b))
}
