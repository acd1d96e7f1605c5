//! The three products, as register tiles: `MR` broadcast words by two vectors of lanes.
//!
//! Each accumulator is one chain of multiply-adds in the order that the loop says. Factors are words
//! ([`Arithmetic`]), sums are f32.

use super::{Arithmetic, CHUNK};
use crate::simd::Simd;

/// Keys that [`add_keys`] takes in one go.
const UNROLL: usize = 4;

/// `c[m][lane] = sum over k of a[m][k] * b[k][lane]`, k ascending: scores of `MR` keys with a panel.
///
/// `a` points to `MR` rows of a packed tile, whose chunks are `chunk_stride` apart; `b` is a panel
/// `[words][2 * LANES]`; `c` is `[MR][2 * LANES]`.
///
/// # Safety
/// As [`Simd`]; the pointers reach those elements, `c` to none of the others'.
#[inline(always)]
pub(crate) unsafe fn scores<S: Simd, A: Arithmetic<S>, const MR: usize>(
    mut a: *const f32,
    chunk_stride: usize,
    mut b: *const f32,
    words: usize,
    c: *mut f32,
) {
    // SAFETY: `k` runs over the words in steps of a chunk; the caller vouches for the pointers.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; MR];
        // Whole chunks have a trip count that the compiler knows, so it unrolls them.
        for _ in 0..words / CHUNK {
            for k in 0..CHUNK {
                score_step::<S, A, MR>(a.add(k), b.add(k * 2 * S::LANES), &mut acc);
            }
            a = a.add(chunk_stride);
            b = b.add(CHUNK * 2 * S::LANES);
        }
        for k in 0..words % CHUNK {
            score_step::<S, A, MR>(a.add(k), b.add(k * 2 * S::LANES), &mut acc);
        }
        for (m, acc) in acc.iter().enumerate() {
            S::store(c.add(m * 2 * S::LANES), acc[0]);
            S::store(c.add((m * 2 + 1) * S::LANES), acc[1]);
        }
    }
}

/// One k of [`scores`].
///
/// # Safety
/// As [`scores`].
#[inline(always)]
unsafe fn score_step<S: Simd, A: Arithmetic<S>, const MR: usize>(
    a: *const f32,
    b: *const f32,
    acc: &mut [[S::V; 2]; MR],
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let (b0, b1) = (S::load(b), S::load(b.add(S::LANES)));
        for (m, acc) in acc.iter_mut().enumerate() {
            let x = S::splat(*a.add(m * CHUNK));
            acc[0] = A::multiply_add(x, b0, acc[0]);
            acc[1] = A::multiply_add(x, b1, acc[1]);
        }
    }
}

/// `c[m][lane] = c[m][lane] * factor[lane] + sum over keys of a[key][m] * p[key][lane]`, keys
/// ascending, a word of them at a time: `MR` elements of head_dim of a panel's output or dq.
///
/// `a` points to `MR` words of the first keys in a packed tile; `p` is `[keys][2 * LANES]`; `c` is
/// `[MR][2 * LANES]`; `factor` is two vectors; `keys` counts words of keys.
///
/// # Safety
/// As [`Simd`]; the pointers reach those elements, `c` to none of the others'.
#[inline(always)]
pub(crate) unsafe fn add_keys<S: Simd, A: Arithmetic<S>, const MR: usize>(
    mut a: *const f32,
    mut p: *const f32,
    keys: usize,
    factor: [S::V; 2],
    c: *mut f32,
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; MR];
        for (m, acc) in acc.iter_mut().enumerate() {
            acc[0] = S::mul(S::load(c.add(m * 2 * S::LANES)), factor[0]);
            acc[1] = S::mul(S::load(c.add((m * 2 + 1) * S::LANES)), factor[1]);
        }
        // Groups have a trip count that the compiler knows, so it unrolls them.
        for _ in 0..keys / UNROLL {
            for key in 0..UNROLL {
                key_step::<S, A, MR>(a.add(key * CHUNK), p.add(key * 2 * S::LANES), &mut acc);
            }
            a = a.add(UNROLL * CHUNK);
            p = p.add(UNROLL * 2 * S::LANES);
        }
        for key in 0..keys % UNROLL {
            key_step::<S, A, MR>(a.add(key * CHUNK), p.add(key * 2 * S::LANES), &mut acc);
        }
        for (m, acc) in acc.iter().enumerate() {
            S::store(c.add(m * 2 * S::LANES), acc[0]);
            S::store(c.add((m * 2 + 1) * S::LANES), acc[1]);
        }
    }
}

/// One key of [`add_keys`].
///
/// # Safety
/// As [`add_keys`].
#[inline(always)]
unsafe fn key_step<S: Simd, A: Arithmetic<S>, const MR: usize>(
    a: *const f32,
    p: *const f32,
    acc: &mut [[S::V; 2]; MR],
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let (p0, p1) = (S::load(p), S::load(p.add(S::LANES)));
        for (m, acc) in acc.iter_mut().enumerate() {
            let x = S::splat(*a.add(m));
            acc[0] = A::multiply_add(x, p0, acc[0]);
            acc[1] = A::multiply_add(x, p1, acc[1]);
        }
    }
}

/// `c[key][column] += sum over rows of p[row of the panel][key] * b[row][column]`, panels and rows
/// descending, a word of rows at a time: `NR` vectors of `MR` keys' dk or dv.
///
/// `p` points to the first of the `MR` keys in the first panel's `[key][words of rows]`, panels
/// `panel_stride` apart; `b` to the columns of the first panel's first word of rows, words of rows
/// `width` apart; `c` to those of the first key, keys `width` apart.
///
/// # Safety
/// As [`Simd`]; the pointers reach those elements, `c` to none of the others'.
#[inline(always)]
pub(crate) unsafe fn add_rows<S: Simd, A: Arithmetic<S>, const MR: usize, const NR: usize>(
    p: *const f32,
    panel_stride: usize,
    panels: usize,
    b: *const f32,
    c: *mut f32,
    width: usize,
) {
    let words = 2 * S::LANES / A::PER_WORD;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut acc = [[S::splat(0.0); NR]; MR];
        for (m, acc) in acc.iter_mut().enumerate() {
            for (n, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(c.add(m * width + n * S::LANES));
            }
        }
        for panel in (0..panels).rev() {
            let p = p.add(panel * panel_stride);
            for word in (0..words).rev() {
                let b = b.add((panel * words + word) * width);
                let mut row = [S::splat(0.0); NR];
                for (n, row) in row.iter_mut().enumerate() {
                    *row = S::load(b.add(n * S::LANES));
                }
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = S::splat(*p.add(m * words + word));
                    for (acc, row) in acc.iter_mut().zip(row) {
                        *acc = A::multiply_add(x, row, *acc);
                    }
                }
            }
        }
        for (m, acc) in acc.iter().enumerate() {
            for (n, acc) in acc.iter().enumerate() {
                S::store(c.add(m * width + n * S::LANES), *acc);
            }
        }
    }
}
