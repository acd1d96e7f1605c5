//! From f32 scores to words of two, where products take pairs.

use super::products::Products;
use super::sights::Sights;
use super::{Arithmetic, MultiplyAdd, SCORES};
use crate::simd::Simd;

/// Makes words of neighbouring keys, in place.
///
/// # Safety
/// As [`Simd`]; `scores` reaches the rows.
#[inline(always)]
pub(super) unsafe fn keys<P: Products>(scores: *mut f32, sights: &Sights) {
    if P::A::PER_WORD == 1 {
        return;
    }
    let lanes = <P::S as Simd>::LANES;
    for group in sights.groups(P::GROUP) {
        let reach = group.reach(P::REACH);
        for row in group.first..group.first + group.rows {
            // SAFETY: the caller vouches for the rows; words are written where no later score is read.
            // A vector behind a tile's last key is inside the row, whose padding is as long.
            unsafe {
                let row = scores.add(row * SCORES);
                for key in reach.clone().step_by(2 * lanes) {
                    let low = P::S::load(row.add(key));
                    let rest = key + lanes < reach.end;
                    let high = if rest { P::S::load(row.add(key + lanes)) } else { P::S::splat(0.0) };
                    P::S::store(row.add(key / 2), P::A::neighbours(low, high));
                }
            }
        }
    }
}

/// Makes words of neighbouring rows, `[row / 2][SCORES]`. The partner of a last row without one counts
/// as 0.
///
/// # Safety
/// As [`Simd`]; `scores` reaches the rows, `to` half as many, rounded up.
#[inline(always)]
pub(super) unsafe fn rows<P: Products>(scores: *const f32, sights: &Sights, to: *mut f32) {
    let lanes = <P::S as Simd>::LANES;
    for group in sights.groups(P::GROUP) {
        let behind = group.first + group.rows;
        for row in (group.first..behind).step_by(2) {
            // SAFETY: the caller vouches for the rows.
            unsafe {
                let (from, to) = (scores.add(row * SCORES), to.add(row / 2 * SCORES));
                for key in group.reach(P::REACH).step_by(lanes) {
                    let first = P::S::load(from.add(key));
                    let other = row + 1 < behind;
                    let second = if other { P::S::load(from.add(SCORES + key)) } else { P::S::splat(0.0) };
                    P::S::store(to.add(key), P::A::pair(first, second));
                }
            }
        }
    }
}
