//! Register tiles: `MR` broadcast words by `NV` vectors, each accumulator one chain of multiply-adds; tiles of
//! scores may have half a vector more.

use super::sink::Sink;
use super::{CHUNK, MultiplyAdd, SCORES};
use crate::simd::Simd;
use core::sync::atomic::{Ordering, compiler_fence};

/// Steps that are unrolled: a trip count that the compiler knows.
const UNROLL: usize = 4;

/// From one row of words to the next, and to the one before; from one row of scores to the one before.
const STEP: isize = CHUNK as isize;
const DOWN: isize = -STEP;
const DOWN_SCORES: isize = -(SCORES as isize);

/// Accumulators.
type Tile<S, const MR: usize, const NV: usize> = [[<S as Simd>::V; NV]; MR];

/// Where vector `n` of a row of words lies, chunks `slice` apart.
#[inline(always)]
const fn place<S: Simd>(n: usize, slice: usize) -> usize {
    n * S::LANES / CHUNK * slice + n * S::LANES % CHUNK
}

/// `tile[m][n] += sum over k of a[m][k] * b[k][n]`, in the order of k: word `(m, k)` lies at
/// `a + m * M + k * K`, chunk 0 of row `k` at `b + k * B`. `half` takes what lies behind the tile's chunks.
///
/// # Safety
/// As [`Simd`]; the pointers reach those words.
#[inline(always)]
unsafe fn multiply<
    S: Simd,
    H: Simd,
    A: MultiplyAdd<S> + MultiplyAdd<H>,
    const MR: usize,
    const NV: usize,
    const NH: usize,
    const M: usize,
    const K: isize,
    const B: isize,
>(
    tile: &mut Tile<S, MR, NV>,
    half: &mut Tile<H, MR, NH>,
    mut a: *const f32,
    mut b: *const f32,
    slice: usize,
    count: usize,
) {
    // SAFETY: k runs over `0..count`; the caller vouches for the words.
    unsafe {
        for _ in 0..count / UNROLL {
            for _ in 0..UNROLL {
                step::<S, A, MR, NV, M>(tile, a, b, slice);
                step::<H, A, MR, NH, M>(half, a, b.wrapping_add(place::<S>(NV, slice)), slice);
                a = a.wrapping_offset(K);
                b = b.wrapping_offset(B);
                // In a program that is linked with all its crates as one (`lto = "fat"`) the compiler would
                // load the vectors of several steps first, more than there are registers: sums would go to
                // memory and back. It may not move loads across this, which is no instruction.
                compiler_fence(Ordering::SeqCst);
            }
        }
        for _ in 0..count % UNROLL {
            step::<S, A, MR, NV, M>(tile, a, b, slice);
            step::<H, A, MR, NH, M>(half, a, b.wrapping_add(place::<S>(NV, slice)), slice);
            a = a.wrapping_offset(K);
            b = b.wrapping_offset(B);
        }
    }
}

/// One k of [`multiply`].
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn step<S: Simd, A: MultiplyAdd<S>, const MR: usize, const NV: usize, const M: usize>(
    tile: &mut Tile<S, MR, NV>,
    a: *const f32,
    b: *const f32,
    slice: usize,
) {
    // SAFETY: the caller vouches for the words.
    unsafe {
        let mut row = [S::splat(0.0); NV];
        for (n, row) in row.iter_mut().enumerate() {
            *row = S::load(b.add(place::<S>(n, slice)));
        }
        for (m, tile) in tile.iter_mut().enumerate() {
            let x = S::splat(*a.add(m * M));
            for (sum, row) in tile.iter_mut().zip(row) {
                *sum = A::multiply_add(x, row, *sum);
            }
        }
    }
}

/// Operands of a tile of scores: its first row and the first chunk of its keys, as
/// [`Products::scores`](super::products::Products::scores) takes them.
#[derive(Clone, Copy)]
pub(crate) struct Scores {
    pub(super) rows: *const f32,
    /// Words from one chunk of head_dim to the next.
    pub(super) row_slice: usize,
    pub(super) keys: *const f32,
    /// Words from one chunk of keys to the next.
    pub(super) key_slice: usize,
    pub(super) words: usize,
    pub(super) to: *mut f32,
}

/// A tile of scores: `NV` vectors of `S`, then `NH` of `H`, which have half as many lanes.
///
/// # Safety
/// As [`Simd`]; the pointers reach the tile's operands.
#[inline(always)]
pub(super) unsafe fn scores<
    S: Simd,
    H: Simd,
    A: MultiplyAdd<S> + MultiplyAdd<H>,
    const MR: usize,
    const NV: usize,
    const NH: usize,
>(
    operands: Scores,
) {
    let Scores { mut rows, row_slice, mut keys, key_slice, words, to } = operands;
    // SAFETY: the loop runs over the words, a chunk at a time; the caller vouches for the pointers.
    unsafe {
        let (mut tile, mut half) = ([[S::splat(0.0); NV]; MR], [[H::splat(0.0); NH]; MR]);
        for _ in 0..words / CHUNK {
            multiply::<S, H, A, MR, NV, NH, CHUNK, 1, STEP>(
                &mut tile, &mut half, rows, keys, key_slice, CHUNK,
            );
            rows = rows.add(row_slice);
            keys = keys.add(CHUNK * CHUNK);
        }
        if !words.is_multiple_of(CHUNK) {
            let rest = words % CHUNK;
            multiply::<S, H, A, MR, NV, NH, CHUNK, 1, STEP>(
                &mut tile, &mut half, rows, keys, key_slice, rest,
            );
        }
        for (m, (sums, half)) in tile.iter().zip(&half).enumerate() {
            let to = to.add(m * SCORES);
            for (n, sum) in sums.iter().enumerate() {
                S::store(to.add(n * S::LANES), *sum);
            }
            for (n, sum) in half.iter().enumerate() {
                H::store(to.add(NV * S::LANES + n * H::LANES), *sum);
            }
        }
    }
}

/// Operands of a tile of outputs: scores from its first row and key on, keys from its first chunk and
/// word of keys on.
#[derive(Clone, Copy)]
pub(crate) struct Outputs {
    pub(super) scores: *const f32,
    pub(super) keys: *const f32,
    /// Words from one chunk of head_dim to the next.
    pub(super) slice: usize,
    /// Words of keys.
    pub(super) count: usize,
    /// What to start from: sums of earlier keys, from the tile's first row and column on.
    pub(super) before: Option<Before>,
    /// The tile's first row and column, in elements of head_dim.
    pub(super) row: usize,
    pub(super) column: usize,
}

/// Sums of earlier keys, `[row][width]`; what is taken up may be overwritten.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub(crate) sums: *mut f32,
    pub(crate) width: usize,
    /// A factor for each row, else 1.
    pub(crate) factors: Option<*const f32>,
}

impl Before {
    /// From a row and a column on.
    ///
    /// # Safety
    /// They are inside.
    #[inline(always)]
    pub(super) unsafe fn from(&self, row: usize, column: usize) -> Self {
        let Self { sums, width, factors } = *self;
        // SAFETY: the caller vouches for row and column.
        unsafe {
            let factors = factors.map(|factors| factors.add(row));
            Self { sums: sums.add(row * width + column), width, factors }
        }
    }
}

/// A tile of outputs, or of dq.
///
/// # Safety
/// As [`scores`]; the sink has the tile's rows and columns.
#[inline(always)]
pub(super) unsafe fn outputs<S: Simd, A: MultiplyAdd<S>, K: Sink<S>, const MR: usize, const NV: usize>(
    operands: Outputs,
    sink: K,
) {
    let Outputs { scores, keys, slice, count, before, row, column } = operands;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut tile = [[S::splat(0.0); NV]; MR];
        if let Some(Before { sums: before, width, factors }) = before {
            for (m, sums) in tile.iter_mut().enumerate() {
                let factor = S::splat(factors.map_or(1.0, |factors| *factors.add(m)));
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::mul(S::load(before.add(m * width + n * S::LANES)), factor);
                }
            }
        }
        let none = &mut [[]; MR];
        multiply::<S, S, A, MR, NV, 0, SCORES, 1, STEP>(&mut tile, none, scores, keys, slice, count);
        for (m, sums) in tile.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                sink.put(row + m, column + n * S::LANES, *sum);
            }
        }
    }
}

/// Operands of a tile of gradients of keys or values: scores from its first key on, rows from its first
/// chunk on.
#[derive(Clone, Copy)]
pub(crate) struct Gradients {
    pub(super) scores: *const f32,
    pub(super) rows: *const f32,
    /// Words from one chunk of head_dim to the next.
    pub(super) slice: usize,
    /// Words of rows: from `first` to before `behind`.
    pub(super) first: usize,
    pub(super) behind: usize,
    pub(super) to: *mut f32,
    pub(super) width: usize,
}

/// A tile of gradients.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
pub(super) unsafe fn gradients<S: Simd, A: MultiplyAdd<S>, const MR: usize, const NV: usize>(
    operands: Gradients,
) {
    let Gradients { scores, rows, slice, first, behind, to, width } = operands;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut tile = [[S::splat(0.0); NV]; MR];
        for (m, sums) in tile.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(to.add(m * width + n * S::LANES));
            }
        }
        let (scores, rows) = (scores.add((behind - 1) * SCORES), rows.add((behind - 1) * CHUNK));
        let (none, count) = (&mut [[]; MR], behind - first);
        multiply::<S, S, A, MR, NV, 0, 1, DOWN_SCORES, DOWN>(&mut tile, none, scores, rows, slice, count);
        for (m, sums) in tile.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                S::store(to.add(m * width + n * S::LANES), *sum);
            }
        }
    }
}
