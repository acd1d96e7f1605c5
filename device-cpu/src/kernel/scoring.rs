//! From products to scores: scale and softcap.
//!
//! Scores are held in base 2: `score * log2(e)`, so that the exponential is `2^x`.

use crate::simd::{self, Simd};
use core::f32::consts::LOG2_E;
use microseq_core::Attention;

/// What turns a product `q.k` into a score: `score * log2(e) = raw(product) * factor`.
///
/// The factor is above 0, so the largest raw value has the largest score, and differences can be
/// taken of raw values: their error is in proportion to the difference, whatever the scores'
/// magnitude, and a row's only key has probability exactly 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scoring {
    raw: Raw,
    pub(super) factor: f32,
    natural: f32,
    /// `d score / d product`, softcap apart.
    scale: f32,
}

#[derive(Clone, Copy, Debug)]
enum Raw {
    /// The product itself.
    Product,
    /// For a scale that is not above 0: the product times its sign.
    Signed(f32),
    /// `tanh(product * inner)`.
    Capped { inner: f32 },
}

impl Scoring {
    pub(crate) fn new(attention: &Attention) -> Self {
        let scale = attention.scale();
        let (raw, factor) = match attention.softcap() {
            // A product of 0 has score 0, whatever the quotient.
            Some(cap) => (Raw::Capped { inner: (scale / cap).clamp(f32::MIN, f32::MAX) }, cap),
            None if scale > 0.0 => (Raw::Product, scale),
            None if scale < 0.0 => (Raw::Signed(-1.0), -scale),
            None => (Raw::Signed(0.0), 1.0),
        };
        Self { raw, factor: factor * LOG2_E, natural: factor, scale }
    }

    /// What a raw score must be multiplied by to be a natural score.
    pub(crate) fn natural(&self) -> f32 {
        self.natural
    }

    /// Whether raw scores are products of a scale and nothing else.
    pub(super) fn is_linear(&self) -> bool {
        !matches!(self.raw, Raw::Capped { .. })
    }

    /// Turns products into raw scores, in place, at each of `places`.
    ///
    /// # Safety
    /// As [`Simd`]; a vector is at each place.
    #[inline(always)]
    pub(super) unsafe fn make_raw<S: Simd>(&self, scores: *mut f32, places: impl Iterator<Item = usize>) {
        if matches!(self.raw, Raw::Product) {
            return;
        }
        for place in places {
            // SAFETY: the caller vouches for the place.
            unsafe { S::store(scores.add(place), self.raw::<S>(S::load(scores.add(place)))) }
        }
    }

    /// The raw score.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn raw<S: Simd>(&self, product: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            match self.raw {
                Raw::Product => product,
                Raw::Signed(sign) => S::mul(product, S::splat(sign)),
                Raw::Capped { inner } => simd::tanh::<S>(S::mul(product, S::splat(inner))),
            }
        }
    }

    /// `d score / d product`, softcap apart, of natural scores.
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// `d score / d product`, of natural scores, where it is `scale` without a softcap.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn slope<S: Simd>(&self, raw: S::V, scale: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            match self.raw {
                Raw::Product | Raw::Signed(_) => scale,
                Raw::Capped { .. } => S::mul(scale, S::sub(S::splat(1.0), S::mul(raw, raw))),
            }
        }
    }
}
