//! From products to probabilities: scale, softcap, mask and exponential, a panel at a time.
//!
//! Scores are held in base 2: `score * log2(e)`, so that the exponential is `2^x`.

use super::rows::DocumentRows;
use crate::simd::{self, MAX_LANES, Simd};
use core::f32::consts::LOG2_E;
use core::ops::Range;
use microseq_core::Attention;

/// What turns a product `q.k` into a score.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scoring {
    /// `d score / d product`, softcap apart.
    pub(crate) scale: f32,
    softcap: Option<f32>,
}

impl Scoring {
    pub(crate) fn new(attention: &Attention) -> Self {
        Self { scale: attention.scale(), softcap: attention.softcap() }
    }

    /// Scores in base 2.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn score<S: Simd>(&self, product: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            match self.softcap {
                None => S::mul(product, S::splat(self.scale * LOG2_E)),
                Some(cap) => {
                    let t = simd::tanh::<S>(S::mul(product, S::splat(self.scale / cap)));
                    S::mul(t, S::splat(cap * LOG2_E))
                }
            }
        }
    }

    /// Scores in base 2, and `d score / d product` (of natural scores).
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn score_and_slope<S: Simd>(&self, product: S::V) -> (S::V, S::V) {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let scale = S::splat(self.scale);
            match self.softcap {
                None => (S::mul(product, S::splat(self.scale * LOG2_E)), scale),
                Some(cap) => {
                    let t = simd::tanh::<S>(S::mul(product, S::splat(self.scale / cap)));
                    let slope = S::mul(scale, S::sub(S::splat(1.0), S::mul(t, t)));
                    (S::mul(t, S::splat(cap * LOG2_E)), slope)
                }
            }
        }
    }
}

/// The keys that each row of a panel sees, relative to a tile.
#[derive(Clone, Copy)]
pub(crate) struct LaneSight<S: Simd> {
    begin: [S::V; 2],
    end: [S::V; 2],
}

impl<S: Simd> LaneSight<S> {
    /// For the panel of rows `first..first + rows`; the lanes behind see nothing.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn new(document: &DocumentRows, first: usize, rows: usize, tile: usize) -> Self {
        let mut begin = [0.0f32; 2 * MAX_LANES];
        let mut end = [0.0f32; 2 * MAX_LANES];
        for lane in 0..rows.min(2 * S::LANES) {
            let keys = document.keys(first + lane);
            // Small integers: exact in f32, which compares in the scores' own registers.
            begin[lane] = keys.start.saturating_sub(tile).min(super::KEYS) as f32;
            end[lane] = keys.end.saturating_sub(tile).min(super::KEYS) as f32;
        }
        // SAFETY: the arrays hold two vectors.
        unsafe {
            Self {
                begin: [S::load(begin.as_ptr()), S::load(begin.as_ptr().add(S::LANES))],
                end: [S::load(end.as_ptr()), S::load(end.as_ptr().add(S::LANES))],
            }
        }
    }

    /// The scores of key `key` in half `half` of the panel, -inf where it is not seen.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn apply(&self, half: usize, key: usize, score: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let hidden = S::splat(f32::NEG_INFINITY);
            let key = S::splat(key as f32);
            let seen = S::where_less(key, self.begin[half], hidden, score);
            S::where_less(key, self.end[half], seen, hidden)
        }
    }
}

/// The running softmax of one half of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Running<V> {
    /// Largest score so far, base 2.
    pub(crate) max: V,
    /// Sum of the exponentials relative to it.
    pub(crate) sum: V,
}

/// Turns products `[key][2 * LANES]` of the keys in `range` into exponentials relative to the new
/// running maximum, in place, and updates one half's state. Returns what everything summed so far
/// must be multiplied by.
///
/// # Safety
/// As [`Simd`]; `scores` reaches a tile's products.
#[inline(always)]
pub(crate) unsafe fn advance<S: Simd>(
    scoring: &Scoring,
    mask: Option<&LaneSight<S>>,
    scores: *mut f32,
    range: Range<usize>,
    half: usize,
    state: &mut Running<S::V>,
) -> S::V {
    // SAFETY: keys in `range` are inside the tile.
    unsafe {
        let mut max = state.max;
        for key in range.clone() {
            let place = scores.add((2 * key + half) * S::LANES);
            let mut score = scoring.score::<S>(S::load(place));
            if let Some(mask) = mask {
                score = mask.apply(half, key, score);
            }
            max = S::max(max, score);
            S::store(place, score);
        }
        // A row that has seen nothing yet: any finite base makes its exponentials 0.
        let base = S::where_less(max, S::splat(f32::MIN), S::splat(0.0), max);
        let factor = simd::exp2::<S>(S::sub(state.max, base));
        let mut sum = S::mul(state.sum, factor);
        for key in range {
            let place = scores.add((2 * key + half) * S::LANES);
            let p = simd::exp2::<S>(S::sub(S::load(place), base));
            sum = S::add(sum, p);
            S::store(place, p);
        }
        *state = Running { max, sum };
        factor
    }
}
