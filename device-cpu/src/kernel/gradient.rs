//! From products to probabilities and gradients of the products, row by row.

use super::SCORES;
use super::lanes::{Reach, Square};
use super::products::Products;
use super::scoring::Scoring;
use super::sights::{Sights, in_one_grain};
use crate::simd::{self, MAX_LANES, Simd};
use core::ops::Range;

/// What the backward pass knows of a block's rows: one number for each.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    /// logsumexp in base 2.
    pub(crate) lse: *const f32,
    /// `out . dout`, for rows of which [`needs_output`] is true.
    pub(crate) delta: *const f32,
    /// `d score / d product`, softcap apart; 0 where the row sees one key only: its probability is 1,
    /// whatever its score.
    pub(crate) scale: *const f32,
}

/// Whether a row's gradients need its output. They are `p (dp - delta)`, with `dp` a key's `dout . v` and
/// `delta = out . dout`, which is the sum of `p dp` over the keys that the row sees: where they all lie in
/// one grain, that sum is at hand, and the output need not be read.
#[inline(always)]
pub(crate) fn needs_output(scoring: &Scoring, keys: &Range<usize>) -> bool {
    !in_one_grain(keys) || !scoring.is_linear()
}

/// Turns products and `dout . v` of a block of rows with the keys of a tile into probabilities `p` and
/// gradients of the products `ds`, in place; both become 0 for keys that a row does not see, as far as
/// its group goes.
///
/// # Safety
/// As [`Simd`]; the pointers reach the rows.
#[inline(always)]
pub(crate) unsafe fn differentiate<P: Products>(
    scoring: &Scoring,
    sights: &Sights,
    (p, ds): (*mut f32, *mut f32),
    known: Known,
) {
    let lanes = <P::S as Simd>::LANES;
    for first in (0..sights.rows()).step_by(lanes) {
        let rows = first..(first + lanes).min(sights.rows());
        let mut deltas = [0.0; MAX_LANES];
        // SAFETY: the caller vouches for the rows.
        unsafe {
            if scoring.is_linear() && rows.clone().any(|row| sights.is_inside(row)) {
                let sums = probabilities::<P>(scoring, sights, rows.clone(), (p, ds), known);
                P::S::store(deltas.as_mut_ptr(), sums);
                inner_gradients::<P>(sights, rows.clone(), (p, ds), known, &deltas);
            }
            for row in rows.filter(|&row| !(sights.is_inside(row) && scoring.is_linear())) {
                let (p, ds) = (p.add(row * SCORES), ds.add(row * SCORES));
                outer_gradients::<P>(scoring, sights, row, (p, ds), known);
            }
        }
    }
}

/// Probabilities of those of some rows that see keys of this tile only; returns the sum of each row's
/// `p dp`.
///
/// # Safety
/// As [`differentiate`]; at most a vector of rows.
#[inline(always)]
unsafe fn probabilities<P: Products>(
    scoring: &Scoring,
    sights: &Sights,
    rows: Range<usize>,
    (p, ds): (*mut f32, *mut f32),
    known: Known,
) -> <P::S as Simd>::V {
    let mut square = Square::new();
    // SAFETY: the caller vouches for the rows; the keys are a tile's.
    unsafe {
        let factor = P::S::splat(scoring.factor);
        for row in rows.clone().filter(|&row| sights.is_inside(row)) {
            let (p, ds) = (p.add(row * SCORES), ds.add(row * SCORES));
            let (reach, minus_lse) = (Reach::of::<P>(sights, row), P::S::splat(-*known.lse.add(row)));
            let mut sum = P::S::splat(0.0);
            scoring.make_raw::<P::S>(p, reach.vectors::<P::S>());
            reach.hide::<P::S>(p, f32::NEG_INFINITY);
            reach.hide::<P::S>(ds, 0.0);
            for key in reach.vectors::<P::S>() {
                let raw = P::S::load(p.add(key));
                let probability = simd::exp2::<P::S>(P::S::fma(raw, factor, minus_lse));
                sum = P::S::fma(probability, P::S::load(ds.add(key)), sum);
                P::S::store(p.add(key), probability);
            }
            square.set::<P::S>(row - rows.start, sum);
        }
        square.join::<P::S, false>()
    }
}

/// Gradients of those of some rows that see keys of this tile only.
///
/// # Safety
/// As [`probabilities`], which has run.
#[inline(always)]
unsafe fn inner_gradients<P: Products>(
    sights: &Sights,
    rows: Range<usize>,
    (p, ds): (*mut f32, *mut f32),
    known: Known,
    deltas: &[f32; MAX_LANES],
) {
    // SAFETY: the caller vouches for the rows; the keys are a tile's.
    unsafe {
        for row in rows.clone().filter(|&row| sights.is_inside(row)) {
            let (p, ds) = (p.add(row * SCORES), ds.add(row * SCORES));
            let delta = P::S::splat(deltas[row - rows.start]);
            let scale = P::S::splat(*known.scale.add(row));
            for key in Reach::of::<P>(sights, row).vectors::<P::S>() {
                let pull = P::S::mul(P::S::sub(P::S::load(ds.add(key)), delta), scale);
                P::S::store(ds.add(key), P::S::mul(P::S::load(p.add(key)), pull));
            }
        }
    }
}

/// Probabilities and gradients of a row whose `delta` is known.
///
/// # Safety
/// As [`differentiate`]; `p` and `ds` are the row's.
#[inline(always)]
unsafe fn outer_gradients<P: Products>(
    scoring: &Scoring,
    sights: &Sights,
    row: usize,
    (p, ds): (*mut f32, *mut f32),
    known: Known,
) {
    // SAFETY: the caller vouches for the row; the keys are a tile's.
    unsafe {
        let (factor, minus_lse) = (P::S::splat(scoring.factor), P::S::splat(-*known.lse.add(row)));
        let delta = P::S::splat(*known.delta.add(row));
        let scale = P::S::splat(*known.scale.add(row));
        let reach = Reach::of::<P>(sights, row);
        for key in reach.vectors::<P::S>() {
            let raw = scoring.raw::<P::S>(P::S::load(p.add(key)));
            let slope = scoring.slope::<P::S>(raw, scale);
            let mut probability = simd::exp2::<P::S>(P::S::fma(raw, factor, minus_lse));
            let pull = P::S::mul(P::S::sub(P::S::load(ds.add(key)), delta), slope);
            let mut gradient = P::S::mul(probability, pull);
            if !reach.covers::<P::S>(key) {
                probability = reach.apply::<P::S>(key, probability, 0.0);
                gradient = reach.apply::<P::S>(key, gradient, 0.0);
            }
            P::S::store(p.add(key), probability);
            P::S::store(ds.add(key), gradient);
        }
    }
}
