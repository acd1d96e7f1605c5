//! Seeded numbers, the same on every machine.

use crate::Element;
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{Rng, SeedableRng};
use std::vec::Vec;

/// A stream of numbers that its seed alone decides.
#[derive(Clone, Debug)]
pub struct Random(Pcg32);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Pcg32::seed_from_u64(seed))
    }

    /// An integer in `0..limit`; 0 where `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u64::from(self.0.next_u32()) * limit as u64) >> 32) as usize
    }

    /// One of the choices.
    ///
    /// # Panics
    /// Where there is none.
    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number of mean 0 and variance 1, in -3.5 to 3.5: a scaled sum of four uniform ones. No
    /// transcendental function, so every machine gives the same bits.
    pub fn normal(&mut self) -> f32 {
        let uniforms: u64 = (0..4).map(|_| u64::from(self.0.next_u32() >> 8)).sum();
        let sum = uniforms as f32 / (1 << 24) as f32 - 2.0;
        sum * 1.732_050_8
    }

    /// `n` of [`normal`](Random::normal), rounded to the element type.
    pub fn elements<E: Element>(&mut self, n: usize) -> Vec<E> {
        (0..n).map(|_| E::from_f32(self.normal())).collect()
    }
}
