//! A problem's metadata: exact lists of work, longest first, shared by all layers and both passes.

use crate::Isa;
use crate::dispatch;
use crate::kernel::backward::{largest_block, relay_len, row_blocks, row_blocks_that_see, rows_of_block};
use crate::kernel::rows::DocumentRows;
use crate::kernel::{GRAIN, Geometry, PANEL};
use crate::schedule::{Item, Schedule};
use core::ops::Range;
use microseq_core::{Attention, Mask, Problem, Segment, Shape};
use std::vec::Vec;

/// Elements of queries and output that a forward block keeps in f32: half of a core's own cache.
const FORWARD_ELEMENTS: usize = 64 * 1024;

/// What handling a row or a key once costs besides its products, as products of a row and a key: packing
/// and unpacking, measured.
const ROW_COST: u64 = 16;
const KEY_COST: u64 = 24;

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
    pub(crate) forward: Schedule<RowBlock>,
    /// Keys of a backward block, at most.
    pub(crate) block_keys: usize,
    pub(crate) backward: Schedule<KeyBlock>,
    /// Elements of all dq on their way, and their turns.
    pub(crate) relay_elements: usize,
    pub(crate) relay_turns: usize,
}

/// A document with at least one query and one key, its blind rows cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document {
    pub(crate) segment: Segment,
    /// Whether its gradient rows hold zeros before the backward pass.
    pub(crate) zeroed: bool,
    /// Its dq, where several blocks of keys add to it.
    pub(crate) relay: Option<RelayPlace>,
}

/// Where a document's dq on its way lies among those of all documents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayPlace {
    /// The first element and the first turn of K/V head 0; heads follow.
    pub(crate) elements: usize,
    pub(crate) turns: usize,
    /// Blocks of rows that have a place at a time, for one K/V head: all, or as many as blocks of keys at
    /// work can see.
    pub(crate) places: usize,
}

/// Forward work: rows of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowBlock {
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// Backward work: a document's block of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyBlock {
    pub(crate) index: usize,
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
            forward: Schedule::new(),
            block_keys: GRAIN,
            backward: Schedule::new(),
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
        self.list_documents(problem);
        self.choose_rows(threads);
        self.choose_keys(threads);
        self.list_relays(threads);
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

    fn list_documents(&mut self, problem: &Problem<'_>) {
        self.blind.clear();
        self.documents.clear();
        let zeroed_rows = problem.zeroed_rows();
        let mut row = 0;
        for segment in problem.batch().segments() {
            let blind = blind_queries(&segment, self.attention.mask());
            let seeing =
                Segment { q_begin: segment.q_begin + blind, q_len: segment.q_len - blind, ..segment };
            push_blind(&mut self.blind, row..seeing.q_begin);
            row = segment.q().end;
            if seeing.q_len > 0 {
                let zeroed = seeing.k().end <= zeroed_rows;
                self.documents.push(Document { segment: seeing, zeroed, relay: None });
            }
        }
        push_blind(&mut self.blind, row..self.shape.q_rows);
    }

    /// Forward blocks of as many rows as the cache takes, or smaller ones where threads would idle.
    fn choose_rows(&mut self, threads: usize) {
        let mut panels = (FORWARD_ELEMENTS / (self.geometry().width * PANEL)).max(1);
        let mut best = None;
        loop {
            self.list_forward(panels * PANEL, threads);
            let makespan = self.forward.makespan(threads);
            if best.is_none_or(|(least, _)| makespan < least) {
                best = Some((makespan, panels));
            }
            if panels == 1 || self.forward.is_balanced(threads) {
                break;
            }
            panels /= 2;
        }
        if let Some((_, best)) = best.filter(|(_, best)| *best != panels) {
            self.list_forward(best * PANEL, threads);
        }
    }

    fn list_forward(&mut self, block_rows: usize, threads: usize) {
        self.block_rows = block_rows;
        self.forward.clear();
        for document in 0..self.documents.len() {
            let rows = self.rows(document, 0);
            let opening = rows.opening();
            let behind = (opening..rows.len()).step_by(block_rows);
            let blocks = behind.map(|begin| begin..rows.len().min(begin + block_rows));
            let blocks = core::iter::once(0..opening).chain(blocks).filter(|block| !block.is_empty());
            for (index, block) in blocks.enumerate() {
                let weight = forward_weight(&rows, &block);
                let work = RowBlock { begin: block.start, end: block.end };
                self.forward.push(Item { work, document, index, weight, rank: weight, waits: false });
            }
        }
        self.forward.arrange(self.shape.kv_heads, threads);
    }

    /// Backward blocks of as many keys as the cache takes, or smaller ones where threads would idle.
    fn choose_keys(&mut self, threads: usize) {
        let mut keys = largest_block(self.shape.head_dim);
        let mut best = None;
        loop {
            self.list_backward(keys, threads);
            let makespan = self.backward.makespan(threads);
            if best.is_none_or(|(least, _)| makespan < least) {
                best = Some((makespan, keys));
            }
            if keys == GRAIN || self.backward.is_balanced(threads) {
                break;
            }
            keys -= GRAIN;
        }
        if let Some((_, best)) = best.filter(|(_, best)| *best != keys) {
            self.list_backward(best, threads);
        }
    }

    fn list_backward(&mut self, block_keys: usize, threads: usize) {
        self.block_keys = block_keys;
        self.backward.clear();
        for document in 0..self.documents.len() {
            let rows = self.rows(document, 0);
            let blocks = rows.segment.k_len.div_ceil(block_keys);
            let mut rank = 0;
            for index in (0..blocks).rev() {
                let keys = index * block_keys..rows.segment.k_len.min((index + 1) * block_keys);
                let seeing = rows_that_see(&rows, index, &keys);
                if seeing.is_empty() {
                    continue;
                }
                let weight = backward_weight(&rows, &keys, seeing);
                // A block comes after those before it in its document.
                rank = weight.max(rank);
                self.backward.push(Item {
                    work: KeyBlock { index },
                    document,
                    index,
                    weight,
                    rank,
                    waits: blocks > 1,
                });
            }
        }
        self.backward.arrange(self.shape.kv_heads, threads);
    }

    /// Makes room for the dq of documents with several blocks of keys.
    fn list_relays(&mut self, threads: usize) {
        let relay_len = relay_len(&self.geometry());
        (self.relay_elements, self.relay_turns) = (0, 0);
        for document in 0..self.documents.len() {
            let rows = self.rows(document, 0);
            self.documents[document].relay = (rows.segment.k_len > self.block_keys).then(|| {
                let places = relay_places(&rows, self.block_keys, threads);
                let place = RelayPlace { elements: self.relay_elements, turns: self.relay_turns, places };
                self.relay_turns += places * self.shape.kv_heads;
                self.relay_elements += places * relay_len * self.shape.kv_heads;
                place
            });
        }
    }
}

/// How many blocks of rows of a document need a place for their dq at a time: so many that no block of
/// keys sees both a block of rows and the one that takes its place next; for each thread as many, and
/// once more, so that none of them waits for a place. Under a window that is far fewer than all.
fn relay_places(rows: &DocumentRows, block_keys: usize, threads: usize) -> usize {
    let all = row_blocks(rows);
    let k_len = rows.segment.k_len;
    let mut most = 0;
    for begin in (0..k_len).step_by(block_keys) {
        most = most.max(row_blocks_that_see(rows, &(begin..k_len.min(begin + block_keys))).len());
        if most * (threads + 1) >= all {
            return all;
        }
    }
    most * (threads + 1)
}

/// What a block of rows costs.
fn forward_weight(rows: &DocumentRows, block: &Range<usize>) -> u64 {
    // Sights rise evenly: the middle row's is the average.
    let pairs = rows.keys(block.start + block.len() / 2).len() * block.len();
    let tiles = rows.keys(block.start).start..rows.keys(block.end - 1).end;
    pairs as u64 + block.len() as u64 * ROW_COST + tiles.len() as u64 * KEY_COST
}

/// The rows that block `index` of keys meets: whole blocks of them, and, where it is the first, the
/// opening.
fn rows_that_see(rows: &DocumentRows, index: usize, keys: &Range<usize>) -> Range<usize> {
    let blocks = row_blocks_that_see(rows, keys);
    let opening = if index == 0 { rows.opening() } else { 0 };
    match (blocks.is_empty(), opening) {
        (true, opening) => 0..opening,
        (false, 0) => rows_of_block(rows, blocks.start).start..rows_of_block(rows, blocks.end - 1).end,
        (false, _) => 0..rows_of_block(rows, blocks.end - 1).end,
    }
}

/// What a block of keys costs that some rows meet.
fn backward_weight(rows: &DocumentRows, keys: &Range<usize>, seeing: Range<usize>) -> u64 {
    let seen = |row: usize| {
        let sees = rows.keys(row);
        sees.end.min(keys.end).saturating_sub(sees.start.max(keys.start)) as u64
    };
    // What rows see of the keys rises evenly where the diagonal crosses them, and falls where a window
    // leaves them: rows at even distances are a fair sample.
    const SAMPLES: usize = 16;
    let at = |i: usize| seeing.start + (2 * i + 1) * seeing.len() / (2 * SAMPLES);
    let pairs = (0..SAMPLES).map(|i| seen(at(i))).sum::<u64>() * seeing.len() as u64 / SAMPLES as u64;
    pairs + seeing.len() as u64 * ROW_COST + keys.len() as u64 * KEY_COST
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
