//! The softmax of a batch's rows, a row in each lane.

use super::OPENING;
use super::batch::Batch;
use crate::kernel::scoring::Scoring;
use crate::simd::{self, Simd};

/// What becomes of products, for the keys that some row sees.
pub(super) struct Softmax<S: Simd> {
    /// Raw scores; -inf where a row does not see the key.
    pub(super) raw: [S::V; OPENING],
    /// Probabilities: exactly 1 where a row sees one key.
    pub(super) p: [S::V; OPENING],
    /// Natural logsumexp of the scores.
    pub(super) lse: S::V,
}

impl<S: Simd> Softmax<S> {
    /// From products of rows and keys.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn new(scoring: &Scoring, batch: &Batch<'_>, products: [S::V; OPENING]) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let (mut raw, mut p) = (products, products);
            let mut max = S::splat(f32::NEG_INFINITY);
            for key in batch.keys() {
                raw[key] = batch.see::<S>(key, scoring.raw::<S>(products[key]), f32::NEG_INFINITY);
                max = S::max(max, raw[key]);
            }
            let (mut sum, factor) = (S::splat(0.0), S::splat(scoring.factor));
            for key in batch.keys() {
                p[key] = simd::exp2::<S>(S::mul(S::sub(raw[key], max), factor));
                sum = S::add(sum, p[key]);
            }
            let inverse = S::div(S::splat(1.0), sum);
            for key in batch.keys() {
                p[key] = S::mul(p[key], inverse);
            }
            let lse = S::fma(max, S::splat(scoring.natural()), simd::ln::<S>(sum));
            Self { raw, p, lse }
        }
    }
}
