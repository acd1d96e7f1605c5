//! Blocks of work in the order in which threads take them.
//!
//! What a thread takes at a time is a *unit*: one large block for one K/V head, or some small ones of
//! neighbouring documents, whose memory is near and whose order the thread knows, so that it can ask for
//! the next block's memory while it works on one.

use core::cmp::Reverse;
use std::vec::Vec;

/// Units for each thread, at least, where blocks are small enough.
const SHARES: u64 = 16;
/// How many times smaller units become as work runs out.
const TAPER: u64 = 4;

/// A block of work, to be done once for each K/V head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<T> {
    pub(crate) work: T,
    /// Its document, and its number among the document's blocks.
    pub(crate) document: usize,
    pub(crate) index: usize,
    /// How long it takes, in the measure of the others.
    pub(crate) weight: u64,
    /// Its place among large blocks: those of higher ranks come first. Never rises within a document.
    pub(crate) rank: u64,
    /// Whether it waits for the block before it in its document.
    pub(crate) waits: bool,
}

/// Blocks that a thread takes together: numbers from `first` on, K/V heads innermost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub(crate) first: usize,
    pub(crate) count: usize,
    weight: u64,
    /// Whether a thread may take it while it is still at work on its last block: not where others would
    /// wait for it, nor where too little is left for the others to level the delay.
    pub(crate) early: bool,
}

/// All blocks of a pass.
#[derive(Clone, Debug)]
pub(crate) struct Schedule<T> {
    items: Vec<Item<T>>,
    units: Vec<Unit>,
    kv_heads: usize,
    /// Each thread's work, while a makespan is reckoned.
    loads: Vec<u64>,
}

impl<T: Copy> Schedule<T> {
    pub(crate) const fn new() -> Self {
        Self { items: Vec::new(), units: Vec::new(), kv_heads: 1, loads: Vec::new() }
    }

    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Blocks, over all K/V heads.
    pub(crate) fn blocks(&self) -> usize {
        self.items.len() * self.kv_heads
    }

    /// The work of a number, and its K/V head.
    pub(crate) fn block(&self, number: usize) -> (&Item<T>, usize) {
        (&self.items[number / self.kv_heads], number % self.kv_heads)
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    pub(crate) fn push(&mut self, item: Item<T>) {
        self.items.push(item);
    }

    /// Orders the blocks and makes units of them: large ones first, then small ones as they lie.
    pub(crate) fn arrange(&mut self, kv_heads: usize, threads: usize) {
        self.kv_heads = kv_heads;
        let total = self.total();
        let share = if threads == 1 { u64::MAX } else { total / (threads as u64 * SHARES) };
        let alone = |item: &Item<T>| item.waits || item.weight > share;
        let rank = |item: &Item<T>| Reverse(if alone(item) { (1, item.rank) } else { (0, 0) });
        self.items.sort_unstable_by_key(|item| (rank(item), item.document, item.index));

        // While two of the largest blocks are left for each thread, the others level a unit's delay.
        let largest = self.items.iter().map(|item| item.weight).max().unwrap_or(0);
        let levelled = |rest: u64| rest >= 2 * threads as u64 * largest;
        self.units.clear();
        let (mut rest, mut first) = (total, 0);
        while first < self.blocks() {
            let item = self.block(first).0;
            let aim = share.min(rest / (threads as u64 * SHARES / 2)).max(share / TAPER);
            let (mut count, mut weight) = (1, item.weight);
            if !alone(item) {
                while first + count < self.blocks() && weight < aim {
                    weight += self.block(first + count).0.weight;
                    count += 1;
                }
            }
            rest -= weight;
            let early = threads == 1 || !item.waits && levelled(rest);
            self.units.push(Unit { first, count, weight, early });
            first += count;
        }
    }

    /// When the last of so many threads is done, if each takes the next unit as soon as it is free.
    pub(crate) fn makespan(&mut self, threads: usize) -> u64 {
        self.loads.clear();
        self.loads.resize(threads, 0);
        for unit in &self.units {
            if let Some(load) = self.loads.iter_mut().min() {
                *load += unit.weight;
            }
        }
        self.loads.iter().copied().max().unwrap_or(0)
    }

    /// Whether so many threads are done at about the same time.
    pub(crate) fn is_balanced(&mut self, threads: usize) -> bool {
        self.makespan(threads) * threads as u64 <= self.total() / 32 * 33
    }

    /// The work of all blocks.
    fn total(&self) -> u64 {
        self.items.iter().map(|item| item.weight).sum::<u64>() * self.kv_heads as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(weights: &[u64], kv_heads: usize, threads: usize) -> Schedule<usize> {
        let mut schedule = Schedule::new();
        for (document, &weight) in weights.iter().enumerate() {
            let item = Item { work: document, document, index: 0, weight, rank: weight, waits: false };
            schedule.push(item);
        }
        schedule.arrange(kv_heads, threads);
        schedule
    }

    #[test]
    fn units_hold_every_block_once() {
        for threads in [1, 2, 7] {
            let schedule = schedule(&[3, 1000, 1, 1, 1, 500, 2, 2, 40], 3, threads);
            let mut seen = [0; 9];
            let mut next = 0;
            for unit in schedule.units() {
                assert_eq!(unit.first, next);
                next += unit.count;
                for number in unit.first..next {
                    let (item, head) = schedule.block(number);
                    seen[item.work] += 1 << head;
                }
            }
            assert_eq!(seen, [0b111; 9]);
        }
    }

    #[test]
    fn large_blocks_come_first_and_alone_and_small_ones_as_they_lie() {
        let schedule = schedule(&[5, 1000, 5, 5, 2000, 5], 1, 2);
        let order: Vec<usize> = (0..6).map(|number| schedule.block(number).0.work).collect();
        assert_eq!(order, [4, 1, 0, 2, 3, 5]);
        let counts: Vec<usize> = schedule.units().iter().map(|unit| unit.count).collect();
        assert_eq!(counts, [1, 1, 4]);
    }

    #[test]
    fn few_large_blocks_are_not_taken_early() {
        let early = |weights: &[u64], threads| {
            let schedule = schedule(weights, 1, threads);
            schedule.units().iter().filter(|unit| unit.early).count()
        };
        // Two for each of two threads: whoever came first would take the two largest.
        assert_eq!(early(&[50, 50, 40, 40], 2), 0);
        assert_eq!(early(&[50, 50, 40, 40], 1), 1, "one thread takes all of them together, always");
        assert_eq!(early(&[50; 16], 2), 12, "all but the last two for each thread");
    }

    #[test]
    fn units_get_smaller_as_work_runs_out() {
        let schedule = schedule(&[1; 4096], 1, 2);
        let counts: Vec<usize> = schedule.units().iter().map(|unit| unit.count).collect();
        assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
        assert_eq!((counts[0], counts[counts.len() - 2]), (128, 32));
    }

    #[test]
    fn a_document_that_waits_stays_in_order_and_is_never_taken_early() {
        let mut schedule = Schedule::new();
        for (index, rank) in [9, 9, 4].into_iter().enumerate() {
            schedule.push(Item { work: index, document: 0, index, weight: rank, rank, waits: true });
        }
        schedule.push(Item { work: 7, document: 1, index: 0, weight: 1, rank: 1, waits: false });
        schedule.arrange(1, 2);
        let order: Vec<usize> = (0..4).map(|number| schedule.block(number).0.work).collect();
        assert_eq!(order, [0, 1, 2, 7]);
        assert!(schedule.units()[..3].iter().all(|unit| !unit.early && unit.count == 1));
        assert_eq!((schedule.makespan(1), schedule.makespan(2)), (23, 13));
    }
}
