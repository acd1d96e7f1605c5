//! From products to probabilities: scale, softcap, mask and exponential, a panel at a time.
//!
//! Scores are held in base 2: `score * log2(e)`, so that the exponential is `2^x`.

use super::rows::DocumentRows;
use crate::simd::{self, MAX_LANES, Simd};
use core::f32::consts::LOG2_E;
use core::ops::Range;
use microseq_core::Attention;

/// What turns a product `q.k` into a score: `score * log2(e) = raw(product) * factor`.
///
/// The factor is above 0, so the largest raw value has the largest score, and differences can be
/// taken of raw values: their error is in proportion to the difference, whatever the scores'
/// magnitude, and a row's only key has probability exactly 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scoring {
    raw: Raw,
    factor: f32,
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
            Some(cap) => (Raw::Capped { inner: scale / cap }, cap),
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

    /// The raw score.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    unsafe fn raw<S: Simd>(&self, product: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            match self.raw {
                Raw::Product => product,
                Raw::Signed(sign) => S::mul(product, S::splat(sign)),
                Raw::Capped { inner } => simd::tanh::<S>(S::mul(product, S::splat(inner))),
            }
        }
    }

    /// `d score / d product`, of natural scores.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    unsafe fn slope<S: Simd>(&self, raw: S::V) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let scale = S::splat(self.scale);
            match self.raw {
                Raw::Product | Raw::Signed(_) => scale,
                Raw::Capped { .. } => S::mul(scale, S::sub(S::splat(1.0), S::mul(raw, raw))),
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

    /// The raw scores of key `key` in half `half` of the panel, -inf where it is not seen.
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
    /// Largest raw score so far.
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
            let mut raw = scoring.raw::<S>(S::load(place));
            if let Some(mask) = mask {
                raw = mask.apply(half, key, raw);
            }
            max = S::max(max, raw);
            S::store(place, raw);
        }
        let factor = S::splat(scoring.factor);
        // A row that has seen nothing yet: any finite base makes its exponentials 0.
        let base = S::where_less(max, S::splat(f32::MIN), S::splat(0.0), max);
        let shrink = simd::exp2::<S>(S::mul(S::sub(state.max, base), factor));
        let mut sum = S::mul(state.sum, shrink);
        for key in range {
            let place = scores.add((2 * key + half) * S::LANES);
            let p = simd::exp2::<S>(S::mul(S::sub(S::load(place), base), factor));
            sum = S::add(sum, p);
            S::store(place, p);
        }
        *state = Running { max, sum };
        shrink
    }
}

/// Turns products and `dout . v` of the keys in `range` into probabilities `p` and gradients of the
/// products `ds`, in place, for one half of a panel.
///
/// `lse` is in base 2, +inf for a row of probability 0; `delta` is `out . dout`.
///
/// # Safety
/// As [`Simd`]; `p` and `ds` reach a tile's products.
#[inline(always)]
pub(crate) unsafe fn differentiate<S: Simd>(
    scoring: &Scoring,
    mask: Option<&LaneSight<S>>,
    (p, ds): (*mut f32, *mut f32),
    range: Range<usize>,
    half: usize,
    (lse, delta): (S::V, S::V),
) {
    // SAFETY: keys in `range` are inside the tile.
    unsafe {
        let factor = S::splat(scoring.factor);
        let minus_lse = S::sub(S::splat(0.0), lse);
        for key in range {
            let place = (2 * key + half) * S::LANES;
            let mut raw = scoring.raw::<S>(S::load(p.add(place)));
            let slope = scoring.slope::<S>(raw);
            if let Some(mask) = mask {
                raw = mask.apply(half, key, raw);
            }
            let probability = simd::exp2::<S>(S::fma(raw, factor, minus_lse));
            let pull = S::mul(S::sub(S::load(ds.add(place)), delta), slope);
            S::store(p.add(place), probability);
            S::store(ds.add(place), S::mul(probability, pull));
        }
    }
}
