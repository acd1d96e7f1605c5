//! The tolerance rule, on numbers worked out by hand.
#![cfg(feature = "dev")]

use microseq_core::DType;
use microseq_core::dev::{Distance, Quantity, assert_close, tolerance};

#[test]
fn the_distance_is_root_mean_square() {
    let distance = Distance::between(&[3.0, 0.0], &[0.0, 4.0]);
    assert_eq!(distance.rms, 12.5f64.sqrt());
    assert_eq!(distance.magnitude, 6.25f64.sqrt());
}

#[test]
fn the_tolerance_is_relative_to_the_magnitude() {
    let distance = Distance { rms: 0.01, magnitude: 2.0 };
    assert!(distance.within(0.005));
    assert!(!distance.within(0.0049));
}

#[test]
fn nothing_needs_to_be_nearer_than_the_floor() {
    assert!(Distance { rms: 1e-7, magnitude: 0.0 }.within(1e-5));
    assert!(!Distance { rms: 1.1e-7, magnitude: 0.0 }.within(1e-5));
}

#[test]
fn equal_infinities_are_equal() {
    let lse = [f64::NEG_INFINITY, 1.0];
    assert_eq!(Distance::between(&lse, &lse).rms, 0.0);
}

#[test]
fn infinities_and_nan_are_far_from_everything_else() {
    for (given, expected) in
        [(f64::INFINITY, f64::NEG_INFINITY), (f64::INFINITY, 1.0), (1.0, f64::NAN), (f64::NAN, f64::NAN)]
    {
        assert!(!Distance::between(&[given], &[expected]).within(1.0), "{given} {expected}");
    }
}

#[test]
fn empty_tensors_are_equal() {
    assert!(Distance::between(&[], &[]).within(0.0));
}

#[test]
#[should_panic(expected = "out: rms")]
fn what_is_too_far_panics_with_its_name() {
    assert_close("out", Quantity::Out, DType::F32, &[1.0, 1.1], &[1.0, 1.0]);
}

#[test]
fn tolerances_are_fast_llms() {
    assert_eq!(tolerance(Quantity::Out, DType::F32), 1e-5);
    assert_eq!(tolerance(Quantity::Gradient, DType::F32), 1e-5);
    assert_eq!(tolerance(Quantity::Out, DType::Bf16), 5e-3);
    assert_eq!(tolerance(Quantity::Gradient, DType::Bf16), 1.5e-2);
    assert_eq!(tolerance(Quantity::Out, DType::F16), 1e-3);
    assert_eq!(tolerance(Quantity::Gradient, DType::F16), 3e-3);
}
