//! The products of packed operands: what an instruction set must bring to the algorithm.
//!
//! Scores and what comes of them lie by rows, `[row][SCORES]`: a key in each lane. `scores` multiplies
//! rows with transposed keys; `add_keys` multiplies scores with keys or values, into rows; `add_rows`
//! multiplies transposed scores with rows, into keys.

use super::ahead::Ahead;
use super::fold;
use super::gemm::{self, Before};
use super::sights::Sights;
use super::sink::Sink;
use super::{Arithmetic, CHUNK, KEYS, MultiplyAdd, ROWS, SCORES, Singles, slice};
use crate::simd::{Portable, Simd};

#[cfg(target_arch = "x86_64")]
use super::Bf16Pairs;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};

/// Products on an instruction set.
///
/// # Safety
/// Calling any function needs a CPU that has the instruction set; pointers reach the operands that the
/// functions name.
pub(crate) trait Products {
    type S: Simd;
    type A: Arithmetic<Self::S>;

    /// Rows that are taken together: they all take part in the products with every key that one of
    /// them sees. Divides [`ROWS`](super::ROWS).
    const GROUP: usize;
    /// Scores are valid for the keys that a group sees, rounded to multiples of this: whole chunks.
    const REACH: usize;
    /// Packed rows and keys count in multiples of this: words, or more. What is behind the last is 0.
    const PAD: usize;

    /// Before the first product of a block, and after the last: takes what it needs, gives it back.
    #[inline(always)]
    unsafe fn begin() {}
    #[inline(always)]
    unsafe fn end() {}

    /// `to[row][key] = rows[row] . keys[key]`, for the keys that a row's group sees, in whole chunks:
    /// lanes outside of what a row sees hold something.
    ///
    /// `rows` is `[words / 16][capacity][16]`, `keys` `[KEYS / 16][padded words][16]`, chunks a [`slice`] apart here as in what follows.
    unsafe fn scores(
        rows: Rows,
        keys: *const f32,
        words: usize,
        sights: &Sights,
        to: *mut f32,
        ahead: &mut Ahead,
    );

    /// Scores by words of rows, for [`add_rows`](Self::add_rows): made in `to`, or as they are.
    unsafe fn fold_rows(scores: *const f32, sights: &Sights, to: *mut f32) -> *const f32;

    /// `sink[row] = before[row] * factor + sum over keys of scores[row][key] * keys[key]`, keys
    /// ascending, for the keys that a row's group sees; without the first term for groups that see no
    /// key of an earlier tile. Scores of keys that a row of the group does not see are 0.
    ///
    /// Groups that see no key are left out where the sink does not want them.
    ///
    /// `scores` is by words of keys, as is `keys`, `[chunks][KEYS / PER_WORD][16]`. Rows of the last
    /// group behind the last row, up to [`GROUP`](Self::GROUP), are put too, of any value.
    unsafe fn add_keys<K: Sink<Self::S>>(
        scores: *const f32,
        keys: *const f32,
        chunks: usize,
        sights: &Sights,
        before: Before,
        sink: K,
        ahead: &mut Ahead,
    );

    /// `to[key] += sum over rows of scores[row][key] * rows[row]`, rows descending, over the rows that
    /// see one of some neighbouring keys. Scores of keys that a row does not see are 0.
    ///
    /// `scores` is by words of rows, as is `rows`, `[chunks][ROWS / PER_WORD][16]`; `to` is
    /// `[key][chunks * 16]`.
    unsafe fn add_rows(
        scores: *const f32,
        rows: *const f32,
        chunks: usize,
        sights: &Sights,
        to: *mut f32,
        ahead: &mut Ahead,
    );
}

/// Packed rows, by words of head_dim.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) words: *const f32,
    /// Rows of the array that they are part of.
    pub(crate) capacity: usize,
}

/// How many chunks, of `left`, the next register tile takes, where at most `most` fit: as even as can be.
#[inline(always)]
const fn share(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}

/// Register tiles of an instruction set, by their sizes: what becomes [`Products`]. The calls take the
/// smallest of its tiles that has so many rows and chunks.
///
/// # Safety
/// As [`gemm`]'s functions.
pub(crate) trait Registers {
    type S: Simd;
    type A: Arithmetic<Self::S>;
    /// Rows of a tile of scores, of outputs and of dq.
    const ROWS: usize;
    /// The most chunks of keys of a tile of scores.
    const SCORES: usize;
    /// Whether a tile's last chunk of scores may be half a chunk.
    const HALVES: bool;
    /// The most chunks of head_dim of a tile of outputs or of dq.
    const OUTPUTS: usize;
    /// Keys of a tile of dk or dv: divides a chunk.
    const KEYS: usize;
    /// The most chunks of head_dim of such a tile.
    const GRADIENTS: usize;

    /// If it [takes](Self::HALVES) halves, with the first `half` of a chunk more, 0 or 1.
    unsafe fn scores(rows: usize, chunks: usize, half: usize, operands: gemm::Scores);
    unsafe fn outputs<K: Sink<Self::S>>(rows: usize, chunks: usize, operands: gemm::Outputs, sink: K);
    unsafe fn gradients(chunks: usize, operands: gemm::Gradients);
}

impl<R: Registers> Products for R {
    type S = R::S;
    type A = R::A;
    const GROUP: usize = R::ROWS;
    const REACH: usize = CHUNK;
    const PAD: usize = R::A::PER_WORD;

    #[inline(always)]
    unsafe fn scores(
        rows: Rows,
        keys: *const f32,
        words: usize,
        sights: &Sights,
        to: *mut f32,
        ahead: &mut Ahead,
    ) {
        let key_slice = slice(words.next_multiple_of(CHUNK));
        let keys_seen = sights.all();
        let (mut chunk, end) = (keys_seen.start / CHUNK, keys_seen.end.div_ceil(CHUNK));
        // A few chunks of keys stay in the innermost cache while all rows meet them.
        while chunk < end {
            let share = share(end - chunk, R::SCORES);
            for group in sights.groups(R::ROWS) {
                let first = chunk.max(group.begin / CHUNK);
                let behind = (chunk + share).min(group.end.div_ceil(CHUNK));
                if first >= behind {
                    continue;
                }
                ahead.step();
                // SAFETY: rows and keys are inside the operands.
                unsafe {
                    let operands = gemm::Scores {
                        rows: rows.words.add(group.first * CHUNK),
                        row_slice: slice(rows.capacity),
                        keys: keys.add(first * key_slice),
                        key_slice,
                        words,
                        to: to.add(group.first * SCORES + first * CHUNK),
                    };
                    // Of the last chunk, half is often all that is seen.
                    let half = usize::from(R::HALVES && group.end + CHUNK / 2 <= behind * CHUNK);
                    <R as Registers>::scores(group.rows, behind - first - half, half, operands);
                }
            }
            chunk += share;
        }
    }

    #[inline(always)]
    unsafe fn fold_rows(scores: *const f32, sights: &Sights, to: *mut f32) -> *const f32 {
        if R::A::PER_WORD == 1 {
            return scores;
        }
        // SAFETY: the caller vouches for the scores.
        unsafe { fold::rows::<Self>(scores, sights, to) };
        to
    }

    #[inline(always)]
    unsafe fn add_keys<K: Sink<Self::S>>(
        scores: *const f32,
        keys: *const f32,
        chunks: usize,
        sights: &Sights,
        before: Before,
        sink: K,
        ahead: &mut Ahead,
    ) {
        let per_word = R::A::PER_WORD;
        let slice = slice(KEYS / per_word);
        let mut chunk = 0;
        while chunk < chunks {
            let share = share(chunks - chunk, R::OUTPUTS);
            for group in sights.groups(R::ROWS) {
                if group.begin == group.end && !K::LAST {
                    continue;
                }
                ahead.step();
                let first = group.begin / per_word;
                let (row, column) = (group.first, chunk * CHUNK);
                // SAFETY: rows, keys and chunks are inside the operands.
                unsafe {
                    let operands = gemm::Outputs {
                        scores: scores.add(group.first * SCORES + first),
                        keys: keys.add(chunk * slice + first * CHUNK),
                        slice,
                        count: group.end.div_ceil(per_word) - first,
                        before: (!group.fresh).then(|| before.from(row, column)),
                        row,
                        column,
                    };
                    R::outputs(group.rows, share, operands, sink);
                }
            }
            chunk += share;
        }
    }

    #[inline(always)]
    unsafe fn add_rows(
        scores: *const f32,
        rows: *const f32,
        chunks: usize,
        sights: &Sights,
        to: *mut f32,
        ahead: &mut Ahead,
    ) {
        let per_word = R::A::PER_WORD;
        let slice = slice(ROWS / per_word);
        let mut chunk = 0;
        while chunk < chunks {
            let share = share(chunks - chunk, R::GRADIENTS);
            for (key, seeing) in sights.seen(R::KEYS) {
                ahead.step();
                // SAFETY: rows, keys and chunks are inside the operands.
                unsafe {
                    let operands = gemm::Gradients {
                        scores: scores.add(key),
                        rows: rows.add(chunk * slice),
                        slice,
                        first: seeing.start / per_word,
                        behind: seeing.end.div_ceil(per_word),
                        to: to.add(key * chunks * CHUNK + chunk * CHUNK),
                        width: chunks * CHUNK,
                    };
                    R::gradients(share, operands);
                }
            }
            chunk += share;
        }
    }
}

/// Implements [`Registers`] for a type: tiles of `$rows` or `$half` rows, and of so many chunks as the
/// lists say, in vectors; half a chunk of scores is a vector of `$half_simd`'s, behind `$whole` whole ones.
///
/// The tiles are large and know nothing of element types: as functions of their own, which enable the
/// instruction set themselves, they are compiled once instead of for each type and place that calls them.
macro_rules! registers {
    (
        $name:ident, $simd:ty, $arithmetic:ty, $rows:literal or $half:literal rows;
        scores: $($scores:literal is $score_vectors:literal),+
            $(, halves of $half_simd:ty: behind $($whole:literal),+)?;
        outputs: $($outputs:literal is $output_vectors:literal),+;
        $keys:literal keys: $($gradients:literal is $gradient_vectors:literal),+;
        $($features:literal)?
    ) => {
        /// Register tiles.
        pub(crate) struct $name;

        impl Registers for $name {
            type S = $simd;
            type A = $arithmetic;
            const ROWS: usize = $rows;
            const SCORES: usize = largest(&[$($scores),+]);
            const HALVES: bool = 0 $(+ <$half_simd as Simd>::LANES)? > 0;
            const OUTPUTS: usize = largest(&[$($outputs),+]);
            const KEYS: usize = $keys;
            const GRADIENTS: usize = largest(&[$($gradients),+]);

            #[inline(never)]
            $(#[target_feature(enable = $features)])?
            unsafe fn scores(rows: usize, chunks: usize, half: usize, operands: gemm::Scores) {
                // SAFETY: the caller's contract, passed on.
                unsafe {
                    match (rows > $half, chunks, half) {
                        $((true, $scores, 0) => gemm::scores::<$simd, $simd, $arithmetic, $rows, $score_vectors, 0>(operands),
                        (false, $scores, 0) => gemm::scores::<$simd, $simd, $arithmetic, $half, $score_vectors, 0>(operands),)+
                        $($((true, $whole, 1) => gemm::scores::<$simd, $half_simd, $arithmetic, $rows, $whole, 1>(operands),
                        (false, $whole, 1) => gemm::scores::<$simd, $half_simd, $arithmetic, $half, $whole, 1>(operands),)+)?
                        _ => unreachable!(),
                    }
                }
            }

            #[inline(never)]
            $(#[target_feature(enable = $features)])?
            unsafe fn outputs<K: Sink<$simd>>(rows: usize, chunks: usize, operands: gemm::Outputs, sink: K) {
                // SAFETY: the caller's contract, passed on.
                unsafe {
                    match (rows > $half, chunks) {
                        $((true, $outputs) => gemm::outputs::<$simd, $arithmetic, K, $rows, $output_vectors>(operands, sink),
                        (false, $outputs) => gemm::outputs::<$simd, $arithmetic, K, $half, $output_vectors>(operands, sink),)+
                        _ => unreachable!(),
                    }
                }
            }

            #[inline(never)]
            $(#[target_feature(enable = $features)])?
            unsafe fn gradients(chunks: usize, operands: gemm::Gradients) {
                // SAFETY: the caller's contract, passed on.
                unsafe {
                    match chunks {
                        $($gradients => gemm::gradients::<$simd, $arithmetic, $keys, $gradient_vectors>(operands),)+
                        _ => unreachable!(),
                    }
                }
            }
        }
    };
}

/// The largest of some numbers.
const fn largest(numbers: &[usize]) -> usize {
    let (mut largest, mut i) = (0, 0);
    while i < numbers.len() {
        if numbers[i] > largest {
            largest = numbers[i];
        }
        i += 1;
    }
    largest
}

registers!(
    PortableSingles, Portable, Singles, 2 or 1 rows;
    scores: 1 is 4; outputs: 1 is 4; 2 keys: 1 is 4;
);
#[cfg(target_arch = "x86_64")]
registers!(
    Avx2Singles, Avx2, Singles, 4 or 2 rows;
    scores: 1 is 2; outputs: 1 is 2; 4 keys: 1 is 2;
    "avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
registers!(
    Avx512Singles, Avx512, Singles, 8 or 4 rows;
    scores: 1 is 1, 2 is 2, 3 is 3, halves of Avx2: behind 0, 1, 2; outputs: 1 is 1, 2 is 2; 4 keys: 1 is 1, 2 is 2, 3 is 3, 4 is 4;
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
registers!(
    Avx512Pairs, Avx512, Bf16Pairs, 8 or 4 rows;
    scores: 1 is 1, 2 is 2, 3 is 3, halves of Avx2: behind 0, 1, 2; outputs: 1 is 1, 2 is 2; 4 keys: 1 is 1, 2 is 2, 3 is 3, 4 is 4;
    "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
