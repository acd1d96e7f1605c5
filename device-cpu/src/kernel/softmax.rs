//! The running softmax of the forward pass, row by row.
//!
//! A row's maximum and sum run along lanes of keys first and across the lanes at last, in an order that
//! only the keys' places in their document decide.

use super::SCORES;
use super::lanes::{Reach, Square};
use super::products::Products;
use super::scoring::Scoring;
use super::sights::Sights;
use crate::simd::{self, MAX_LANES, Simd};
use core::ops::Range;

/// The running softmax of a panel's rows: one number for each.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    /// Largest raw score so far.
    pub(crate) max: *mut f32,
    /// Sum of the exponentials relative to it.
    pub(crate) sum: *mut f32,
    /// What everything summed before this tile must be multiplied by.
    pub(crate) shrink: *mut f32,
}

impl Running {
    /// From row `row` on.
    ///
    /// # Safety
    /// There are that many rows.
    #[inline(always)]
    pub(crate) unsafe fn from(&self, row: usize) -> Self {
        // SAFETY: the caller vouches for the row.
        unsafe { Self { max: self.max.add(row), sum: self.sum.add(row), shrink: self.shrink.add(row) } }
    }
}

/// Turns a panel's products with the keys of a tile into exponentials relative to the new running
/// maxima, in place; those of keys that a row does not see become 0, as far as its group goes.
///
/// # Safety
/// As [`Simd`]; `scores` reaches the rows, `running` as many rounded up to whole vectors.
#[inline(always)]
pub(crate) unsafe fn advance<P: Products>(
    scoring: &Scoring,
    sights: &Sights,
    scores: *mut f32,
    running: Running,
) {
    let lanes = <P::S as Simd>::LANES;
    for first in (0..sights.rows()).step_by(lanes) {
        let rows = first..(first + lanes).min(sights.rows());
        // SAFETY: the caller vouches for rows and vectors of them.
        unsafe {
            let largest = mask_and_maximise::<P>(scoring, sights, rows.clone(), scores);
            let running = running.from(first);
            let bases = rebase::<P::S>(scoring, largest, running);
            let sums = exponentiate::<P>(scoring, sights, rows, scores, &bases);
            let shrunk = P::S::mul(P::S::load(running.sum), P::S::load(running.shrink));
            P::S::store(running.sum, P::S::add(shrunk, sums));
        }
    }
}

/// Raw scores of some rows, in place, -inf where a key is not seen; returns the largest of each row.
///
/// # Safety
/// As [`advance`]; at most a vector of rows.
#[inline(always)]
unsafe fn mask_and_maximise<P: Products>(
    scoring: &Scoring,
    sights: &Sights,
    rows: Range<usize>,
    scores: *mut f32,
) -> <P::S as Simd>::V {
    let mut square = Square::new();
    // SAFETY: the caller vouches for the rows; the keys are a tile's.
    unsafe {
        for row in rows.clone() {
            let (scores, reach) = (scores.add(row * SCORES), Reach::of::<P>(sights, row));
            scoring.make_raw::<P::S>(scores, reach.vectors::<P::S>());
            reach.hide::<P::S>(scores, f32::NEG_INFINITY);
            let mut max = P::S::splat(f32::NEG_INFINITY);
            for key in reach.vectors::<P::S>() {
                max = P::S::max(max, P::S::load(scores.add(key)));
            }
            square.set::<P::S>(row - rows.start, max);
        }
        square.join::<P::S, true>()
    }
}

/// Raises the running maxima of a vector of rows; returns what scores must be taken relative to.
///
/// # Safety
/// As [`Simd`]; `running` reaches a vector.
#[inline(always)]
unsafe fn rebase<S: Simd>(scoring: &Scoring, largest: S::V, running: Running) -> [f32; MAX_LANES] {
    // SAFETY: the caller vouches for the vectors.
    unsafe {
        let old = S::load(running.max);
        let max = S::max(old, largest);
        // A row that has seen nothing yet: any finite base makes its exponentials 0.
        let base = S::where_less(max, S::splat(f32::MIN), S::splat(0.0), max);
        let shrink = simd::exp2::<S>(S::mul(S::sub(old, base), S::splat(scoring.factor)));
        S::store(running.max, max);
        S::store(running.shrink, shrink);
        let mut bases = [0.0; MAX_LANES];
        S::store(bases.as_mut_ptr(), base);
        bases
    }
}

/// Exponentials of some rows' scores, in place; returns the sum of each row.
///
/// # Safety
/// As [`mask_and_maximise`].
#[inline(always)]
unsafe fn exponentiate<P: Products>(
    scoring: &Scoring,
    sights: &Sights,
    rows: Range<usize>,
    scores: *mut f32,
    bases: &[f32; MAX_LANES],
) -> <P::S as Simd>::V {
    let mut square = Square::new();
    // SAFETY: the caller vouches for the rows; the keys are a tile's.
    unsafe {
        let factor = P::S::splat(scoring.factor);
        for row in rows.clone() {
            let (scores, reach) = (scores.add(row * SCORES), Reach::of::<P>(sights, row));
            let base = P::S::splat(bases[row - rows.start]);
            let mut sum = P::S::splat(0.0);
            for key in reach.vectors::<P::S>() {
                let difference = P::S::sub(P::S::load(scores.add(key)), base);
                let p = simd::exp2::<P::S>(P::S::mul(difference, factor));
                sum = P::S::add(sum, p);
                P::S::store(scores.add(key), p);
            }
            square.set::<P::S>(row - rows.start, sum);
        }
        square.join::<P::S, false>()
    }
}
