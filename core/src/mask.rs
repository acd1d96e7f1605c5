//! Which keys a query sees.

use core::num::NonZeroUsize;
use core::ops::Range;

/// Which keys of its document a query sees, besides those outside its document, which it never
/// does. Aligned bottom-right: query `i` of `q_len` stands at key `i + k_len - q_len`, its
/// *diagonal*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mask {
    /// Keys behind the diagonal are hidden.
    pub causal: bool,
    /// Keys further back than this from the diagonal, which counts, are hidden.
    pub window: Option<NonZeroUsize>,
}

impl Mask {
    /// Every key at or before the diagonal.
    pub const CAUSAL: Self = Self { causal: true, window: None };
    /// Every key of the document.
    pub const FULL: Self = Self { causal: false, window: None };

    /// The keys, in `0..k_len`, that query `i` sees: a range, perhaps empty.
    #[inline]
    pub const fn keys(&self, i: usize, q_len: usize, k_len: usize) -> Range<usize> {
        // One behind the diagonal, as a count of keys; negative where the query precedes all keys.
        let behind = i as i64 + 1 + k_len as i64 - q_len as i64;
        let end = if self.causal { clamp(behind, k_len) } else { k_len };
        let begin = match self.window {
            Some(window) => clamp(behind.saturating_sub_unsigned(window.get() as u64), k_len),
            None => 0,
        };
        if begin < end { begin..end } else { 0..0 }
    }

    /// Number of (query, key) pairs that the mask lets through. In constant time.
    pub const fn pairs(&self, q_len: usize, k_len: usize) -> u64 {
        let first = 1 + k_len as i64 - q_len as i64;
        let ends = if self.causal { clamped_sum(first, q_len, k_len) } else { q_len as u64 * k_len as u64 };
        let begins = match self.window {
            Some(window) => clamped_sum(first.saturating_sub_unsigned(window.get() as u64), q_len, k_len),
            None => 0,
        };
        ends - begins
    }
}

const fn clamp(x: i64, limit: usize) -> usize {
    if x < 0 {
        0
    } else if x > limit as i64 {
        limit
    } else {
        x as usize
    }
}

/// The sum of `clamp(first + t, limit)` over `t` in `0..n`.
const fn clamped_sum(first: i64, n: usize, limit: usize) -> u64 {
    let below = clamp(first.saturating_neg(), n) as u64;
    let begin = clamp(first, limit) as u64;
    let rising = {
        let room = limit as u64 - begin;
        let left = n as u64 - below;
        if left < room { left } else { room }
    };
    let above = n as u64 - below - rising;
    // begin + (begin + 1) + … , then the limit.
    let series = rising * begin + if rising == 0 { 0 } else { rising * (rising - 1) / 2 };
    series + above * limit as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_form_counts_what_the_ranges_hold() {
        for window in [
            None,
            NonZeroUsize::new(1),
            NonZeroUsize::new(3),
            NonZeroUsize::new(100),
            NonZeroUsize::new(usize::MAX),
        ] {
            for causal in [true, false] {
                let mask = Mask { causal, window };
                for q_len in 0..14 {
                    for k_len in 0..14 {
                        let counted: usize = (0..q_len).map(|i| mask.keys(i, q_len, k_len).len()).sum();
                        assert_eq!(mask.pairs(q_len, k_len), counted as u64, "{mask:?} {q_len} {k_len}");
                    }
                }
            }
        }
    }
}
