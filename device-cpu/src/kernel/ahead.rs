//! Asking for memory before it is needed, a little at each step of the products.
//!
//! A core keeps some dozens of lines on their way, and waits where more are asked for; so asking for a
//! whole block at once takes as long as fetching it. Spread among the products, it costs nothing.

use super::rows::Places;
use crate::simd;

/// One row, in units of a pace.
const ROW: u64 = 1 << 8;

/// The most spans at a time.
const SPANS: usize = 10;

/// Rows of a view of the caller's that will be needed next.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) base: *const u8,
    /// From a row to the next, and from a head to the next, in bytes.
    pub(crate) row_stride: usize,
    pub(crate) head_stride: usize,
    /// Bytes of a head of a row.
    pub(crate) bytes: usize,
    pub(crate) places: Places,
    pub(crate) rows: usize,
}

/// Memory that is asked for while products are computed.
pub(crate) struct Ahead {
    spans: [Option<Span>; SPANS],
    count: usize,
    /// The first span that is not asked for yet.
    at: usize,
    rows: usize,
    /// Rows for each step, and rows that are due.
    pace: u64,
    due: u64,
    /// Steps since the spans were listed, and the size of what they compute, 0 where it is not known.
    steps: u64,
    size: u64,
    /// Steps and size of what was computed last, where it was known.
    last: (u64, u64),
}

impl Ahead {
    pub(crate) fn new() -> Self {
        Self {
            spans: [None; SPANS],
            count: 0,
            at: 0,
            rows: 0,
            pace: 0,
            due: 0,
            steps: 0,
            size: 0,
            last: (0, 1),
        }
    }

    /// Forgets what is left and begins anew.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        if self.size > 0 {
            self.last = (self.steps, self.size);
        }
        (self.count, self.at, self.rows, self.size) = (0, 0, 0, 0);
    }

    /// Adds a span.
    #[inline(always)]
    pub(crate) fn add(&mut self, span: Span) {
        if span.rows > 0 {
            self.spans[self.count] = Some(span);
            self.count += 1;
            self.rows += span.rows;
        }
    }

    /// Begins anew with what an upcoming block lists, if there is one, and spreads it over so many steps.
    #[inline(always)]
    pub(crate) fn turn_to<B>(&mut self, upcoming: Option<&B>, steps: u64, list: impl FnOnce(&B, &mut Self)) {
        self.clear();
        if let Some(upcoming) = upcoming {
            list(upcoming, self);
        }
        self.spread_over(steps);
    }

    /// Spreads the spans over what is computed next, of such a size: over as many steps for each unit of it as
    /// there were the last time.
    #[inline(always)]
    pub(crate) fn spread(&mut self, size: usize) {
        let (steps, of) = self.last;
        self.size = size as u64;
        self.spread_over(steps * self.size / of);
    }

    /// Spreads the spans over so many steps.
    #[inline(always)]
    pub(crate) fn spread_over(&mut self, steps: u64) {
        self.pace = self.rows as u64 * ROW / steps.max(1);
        (self.steps, self.due) = (0, 0);
    }

    /// A step of the products: asks for what is due.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        self.steps += 1;
        self.due += self.pace;
        while self.due >= ROW && self.at < self.count {
            self.due -= ROW;
            self.row();
        }
    }

    /// Asks for everything that is left.
    #[inline(always)]
    pub(crate) fn finish(&mut self) {
        while self.at < self.count {
            self.row();
        }
    }

    /// Asks for a row.
    #[inline(always)]
    fn row(&mut self) {
        const LINE: usize = 64;
        let Some(span) = &mut self.spans[self.at] else { return };
        if let Some((row, head)) = span.places.next() {
            let from = span.base.wrapping_add(row * span.row_stride + head * span.head_stride);
            for byte in (0..span.bytes).step_by(LINE) {
                simd::prefetch(from.wrapping_add(byte));
            }
        }
        span.rows -= 1;
        if span.rows == 0 {
            self.at += 1;
        }
    }
}
