//! The calls that only move rows: gather, accumulate, flush.
//!
//! Bound by memory, not arithmetic: plain loops over heads of rows, split among the threads by rows.

use crate::strided::{StridedMut, StridedRef};
use crate::threads::{Queue, Threads};
use microseq_core::{Host, KvMut, KvRef, Scalar};

/// Elements of a piece of work: enough to be worth handing out.
const PIECE: usize = 16 * 1024;

/// Calls `each(from, into)` for every element of rows `0..rows` of `from` and rows `at..at + rows` of
/// `into`, keys and values alike.
pub(crate) fn zip_rows<A: Scalar, B: Scalar>(
    threads: &Threads,
    from: KvRef<'_, Host, A>,
    into: KvMut<'_, Host, B>,
    at: usize,
    each: impl Fn(&A, &mut B) + Sync,
) {
    let layout = from.k().layout();
    let (rows, heads, head_dim) = (layout.rows(), layout.heads(), layout.head_dim());
    if rows == 0 {
        return; // Nothing says that the elements of a row could be counted.
    }
    let step = (PIECE / (heads * head_dim)).max(1);
    let queue = Queue::new(rows.div_ceil(step));
    let lanes = threads.count().min(rows.div_ceil(step));
    let (from_k, from_v) = StridedRef::kv(from);
    let (into_k, into_v) = StridedMut::kv(into);
    threads.run(lanes, &|_lane| {
        while let Some(piece) = queue.take() {
            for row in piece * step..rows.min((piece + 1) * step) {
                for head in 0..heads {
                    for (from, into) in [(&from_k, &into_k), (&from_v, &into_v)] {
                        // SAFETY: row and head are inside both views: their shapes were checked. Heads
                        // of rows of the written view are distinct, and this row is this piece's alone.
                        let (from, into) = unsafe {
                            let from = core::slice::from_raw_parts(from.at(row, head), head_dim);
                            let into = core::slice::from_raw_parts_mut(into.at(at + row, head), head_dim);
                            (from, into)
                        };
                        from.iter().zip(into).for_each(|(from, into)| each(from, into));
                    }
                }
            }
        }
    });
}
