//! A problem's metadata: exact lists of work, longest first, shared by all layers and both passes.

use crate::Isa;
use crate::dispatch;
use crate::kernel::backward::{largest_block, relay_len, row_blocks_that_see};
use crate::kernel::rows::DocumentRows;
use crate::kernel::{Geometry, KEYS, PANEL, ROWS};
use core::cmp::Reverse;
use core::ops::Range;
use microseq_core::{Attention, Mask, Problem, Segment, Shape};
use std::vec::Vec;

/// Elements of queries and output that a forward block keeps in f32: half of a core's own cache.
const FORWARD_ELEMENTS: usize = 64 * 1024;

/// Blocks of work for each thread, at least, where a problem has them.
const BLOCKS_PER_THREAD: usize = 4;

/// A problem prepared for the CPU device: which blocks of rows and of keys there are, and in which
/// order they are worked on.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(crate) isa: Isa,
    pub(crate) shape: Shape,
    pub(crate) attention: Attention,
    /// Query rows that see no key: of no document, or before the first key.
    pub(crate) blind: Vec<Range<usize>>,
    pub(crate) documents: Vec<Document>,
    /// Rows of a forward block, at most: whole panels.
    pub(crate) block_rows: usize,
    pub(crate) forward: Vec<RowBlock>,
    pub(crate) backward: Vec<KeyBlock>,
    /// Keys of a backward block.
    pub(crate) block_keys: usize,
    /// Elements of all dq on their way, and their turns.
    pub(crate) relay_elements: usize,
    pub(crate) relay_turns: usize,
}

/// A document with at least one query and one key, its blind rows cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document {
    pub(crate) segment: Segment,
    /// Where dq of K/V head 0 lies among those on their way, and its turns; heads follow.
    pub(crate) relay: Option<(usize, usize)>,
    /// Blocks of rows in the backward pass, for one K/V head.
    pub(crate) row_blocks: usize,
}

/// Forward work: rows of a document, for each K/V head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowBlock {
    pub(crate) document: usize,
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// Roughly its pairs.
    weight: usize,
}

/// Backward work: a block of a document's keys, for each K/V head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyBlock {
    pub(crate) document: usize,
    pub(crate) index: usize,
    /// Work of this block or of a later one of the document, whichever is more: never rises within a
    /// document, so that sorting by it keeps a document's blocks in order.
    weight: u64,
}

impl Prepared {
    pub(crate) fn new(problem: &Problem<'_>, isa: Isa, threads: usize) -> Self {
        let mut prepared = Self {
            isa,
            shape: problem.shape(),
            attention: *problem.attention(),
            blind: Vec::new(),
            documents: Vec::new(),
            block_rows: PANEL,
            forward: Vec::new(),
            backward: Vec::new(),
            block_keys: KEYS,
            relay_elements: 0,
            relay_turns: 0,
        };
        prepared.fill(problem, isa, threads);
        prepared
    }

    /// Replaces the content, in the memory that is there.
    pub(crate) fn fill(&mut self, problem: &Problem<'_>, isa: Isa, threads: usize) {
        self.isa = isa;
        self.shape = problem.shape();
        self.attention = *problem.attention();
        self.block_keys = self.choose_block(problem, threads);
        self.list_documents(problem);
        self.list_forward(threads);
        self.list_backward();
    }

    /// The sizes of the kernels' arrays.
    pub(crate) fn geometry(&self) -> Geometry {
        dispatch::geometry(self.isa, self.shape.dtype, self.shape.head_dim)
    }

    /// A document's rows, for one K/V head.
    pub(crate) fn rows(&self, document: usize, kv_head: usize) -> DocumentRows {
        let group = self.attention.group();
        DocumentRows {
            segment: self.documents[document].segment,
            mask: self.attention.mask(),
            group,
            first_head: kv_head * group,
        }
    }

    /// Blocks of keys as large as the cache takes, but enough of them to keep every thread busy.
    fn choose_block(&self, problem: &Problem<'_>, threads: usize) -> usize {
        let mut keys = largest_block(self.shape.head_dim);
        let blocks = |keys: usize| {
            let documents = problem.batch().segments().map(|s| s.k_len.div_ceil(keys)).sum::<usize>();
            documents * self.shape.kv_heads
        };
        while keys > KEYS && blocks(keys) < BLOCKS_PER_THREAD * threads {
            keys -= KEYS;
        }
        keys
    }

    fn list_documents(&mut self, problem: &Problem<'_>) {
        self.blind.clear();
        self.documents.clear();
        (self.relay_elements, self.relay_turns) = (0, 0);
        let mut row = 0;
        for segment in problem.batch().segments() {
            let blind = blind_queries(&segment, self.attention.mask());
            let seeing =
                Segment { q_begin: segment.q_begin + blind, q_len: segment.q_len - blind, ..segment };
            push_blind(&mut self.blind, row..seeing.q_begin);
            row = segment.q().end;
            if seeing.q_len > 0 {
                let document = self.document(seeing);
                self.documents.push(document);
            }
        }
        push_blind(&mut self.blind, row..self.shape.q_rows);
    }

    fn document(&mut self, segment: Segment) -> Document {
        let geometry = self.geometry();
        let rows = segment.q_len * self.attention.group();
        let row_blocks = rows.div_ceil(ROWS);
        let relay = (segment.k_len > self.block_keys).then_some((self.relay_elements, self.relay_turns));
        if relay.is_some() {
            self.relay_turns += row_blocks * self.shape.kv_heads;
            self.relay_elements += row_blocks * relay_len(&geometry) * self.shape.kv_heads;
        }
        Document { segment, relay, row_blocks }
    }

    fn list_forward(&mut self, threads: usize) {
        self.forward.clear();
        let group = self.attention.group();
        let total: usize = self.documents.iter().map(|d| d.segment.q_len * group).sum();
        // As many rows as the cache takes, but enough blocks to keep every thread busy.
        let cached = FORWARD_ELEMENTS / (self.geometry().width * PANEL);
        let shared = total * self.shape.kv_heads / (BLOCKS_PER_THREAD * threads * PANEL);
        self.block_rows = cached.min(shared).max(1) * PANEL;
        let step = self.block_rows;
        for document in 0..self.documents.len() {
            let rows = self.rows(document, 0);
            for begin in (0..rows.len()).step_by(step) {
                let end = rows.len().min(begin + step);
                // Sights rise evenly: the middle row's is the average.
                let weight = rows.keys(begin + (end - begin) / 2).len() * (end - begin);
                self.forward.push(RowBlock { document, begin, end, weight });
            }
        }
        self.forward.sort_unstable_by_key(|b| (Reverse(b.weight), b.document, b.begin));
    }

    fn list_backward(&mut self) {
        self.backward.clear();
        let keys_of_block = self.block_keys;
        for document in 0..self.documents.len() {
            let rows = self.rows(document, 0);
            let blocks = rows.segment.k_len.div_ceil(keys_of_block);
            let mut weight = 0;
            for index in (0..blocks).rev() {
                let keys = index * keys_of_block..rows.segment.k_len.min((index + 1) * keys_of_block);
                let row_blocks = row_blocks_that_see(&rows, &keys);
                if !row_blocks.is_empty() {
                    weight = weight.max(row_blocks.len() as u64 * keys.len() as u64);
                    self.backward.push(KeyBlock { document, index, weight });
                }
            }
        }
        self.backward.sort_unstable_by_key(|b| (Reverse(b.weight), b.document, b.index));
    }
}

/// Queries at the begin of a segment that see no key: all without keys, else those before the first
/// key.
fn blind_queries(segment: &Segment, mask: Mask) -> usize {
    if segment.k_len == 0 {
        segment.q_len
    } else if mask.causal {
        segment.q_len.saturating_sub(segment.k_len)
    } else {
        0
    }
}

fn push_blind(blind: &mut Vec<Range<usize>>, rows: Range<usize>) {
    if !rows.is_empty() {
        blind.push(rows);
    }
}
