//! In which order blocks take pieces of work that wait for each other: that of a trial on the host, in which each takes
//! as long as is reckoned here. On the device blocks take the next piece whenever they are free, so only time depends on
//! what is reckoned.
//!
//! Two kinds of waiting are known. Key tiles that meet the same queries add to their dq one after the other: they are a
//! chain, and who begins with the one before lags behind it all the way. And the parts of a walk add to the same dk and
//! dv when they end.

use super::parts::Part;
use crate::cuts::Cuts;
use core::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a query tile takes, in the unit of time.
const TILE: i64 = 10;
/// What a piece takes besides, to begin and to end.
const ENDS: i64 = 31;
/// How long after a chain's key tile the next should meet a query tile.
const TURN: i64 = 24;
/// How long after a part of a walk the next should end. To add takes less, but who ends too soon waits, and who ends late
/// costs little.
const ADD: i64 = 64;

/// The parts of a step's walks in the order in which blocks should begin them. They are given by document, key tile by
/// key tile, the last part of each first; `cuts` says where walks are cut. Chains of no
/// more than `cached` query tiles are begun at a time.
pub(super) fn in_order(
    documents: &[Vec<Part>],
    cuts: Option<Cuts>,
    heads: usize,
    blocks: usize,
    cached: i64,
) -> Vec<Part> {
    let mut trial = Trial { pieces: Vec::new(), chains: Vec::new() };
    documents.iter().for_each(|parts| trial.add_document(parts, cuts));
    trial.reckon_paths();
    trial.run(heads, blocks, cached)
}

/// Numbers of pieces are of 32 bits, since there may be millions; `parts_in_order` has counted them.
struct Piece {
    part: Part,
    chain: u32,
    /// The chain's next, and the walk's.
    next: [Option<u32>; 2],
    /// For how many that were not begun it waits.
    waits: u32,
    /// When it should begin, for the others.
    at: i64,
    /// From its begin to the end of the last that waits for it.
    path: i64,
}

/// Key tiles that meet some of the query tiles `begin..end`.
#[derive(Clone, Copy)]
struct Chain {
    begin: i32,
    end: i32,
    first: Option<u32>,
    last: Option<u32>,
    /// Who begins the chain of the part before: behind this one's first, so that nobody waits for a chain for which there
    /// is no room yet.
    next: Option<u32>,
    /// Pieces that were not begun.
    left: usize,
    open: bool,
}

struct Trial {
    /// Nobody waits for those behind.
    pieces: Vec<Piece>,
    chains: Vec<Chain>,
}

impl Piece {
    fn time(&self) -> i64 {
        TILE * i64::from(self.part.end - self.part.begin) + ENDS
    }
}

impl Chain {
    const NONE: Self =
        Self { begin: i32::MAX, end: i32::MIN, first: None, last: None, next: None, left: 0, open: false };

    fn tiles(&self) -> i64 {
        i64::from(self.end - self.begin)
    }
}

impl Trial {
    fn add_document(&mut self, parts: &[Part], cuts: Option<Cuts>) {
        let number = |part: &Part| cuts.map_or(0, |cuts| cuts.number(part.begin));
        let lowest = parts.iter().map(number).min().unwrap_or(0);
        let first_chain = self.chains.len();
        for part in parts {
            let chain = first_chain + (number(part) - lowest) as usize;
            self.chains.resize(self.chains.len().max(chain + 1), Chain::NONE);
            self.add(*part, chain);
        }
        let mut next: Option<u32> = None;
        for chain in self.chains[first_chain..].iter_mut().filter(|chain| chain.first.is_some()) {
            if let Some(next) = next {
                self.pieces[next as usize].waits += 1;
            }
            chain.next = next;
            next = chain.first;
        }
    }

    /// Adds a piece behind the last of its chain.
    fn add(&mut self, part: Part, chain: usize) {
        let i = self.pieces.len() as u32;
        let part_before = (part.before > 0).then(|| i - 1);
        let mut waits = 0;
        for (kind, before) in [self.chains[chain].last, part_before].into_iter().enumerate() {
            if let Some(before) = before {
                self.pieces[before as usize].next[kind] = Some(i);
                waits += 1;
            }
        }
        self.pieces.push(Piece { part, chain: chain as u32, next: [None; 2], waits, at: 0, path: 0 });
        let chain = &mut self.chains[chain];
        (chain.begin, chain.end) = (chain.begin.min(part.begin), chain.end.max(part.end));
        (chain.first, chain.last) = (chain.first.or(Some(i)), Some(i));
        chain.left += 1;
    }

    /// Who waits for what a piece adds, and how long after it these should begin.
    fn waiting_for(&self, piece: &Piece) -> impl Iterator<Item = (usize, i64)> + use<> {
        let [chain, walk] = piece.next.map(|next| next.map(|next| next as usize));
        // Both walk down from their last query tiles.
        let behind = |next: &Piece| TURN + TILE * i64::from(piece.part.end - next.part.end);
        let chain = chain.map(|next| (next, behind(&self.pieces[next])));
        let walk = walk.map(|next| (next, piece.time() + ADD - self.pieces[next].time()));
        chain.into_iter().chain(walk)
    }

    fn reckon_paths(&mut self) {
        for i in (0..self.pieces.len()).rev() {
            let piece = &self.pieces[i];
            let paths = self.waiting_for(piece).map(|(next, lag)| lag + self.pieces[next].path);
            self.pieces[i].path = paths.fold(piece.time(), i64::max);
        }
    }

    /// Lets blocks take pieces: always, of those that need not wait, the one with the longest path behind it.
    fn run(mut self, heads: usize, blocks: usize, cached: i64) -> Vec<Part> {
        let mut order = Vec::with_capacity(self.pieces.len());
        let mut free: BinaryHeap<_> = (0..blocks).map(|_| Reverse(0)).collect();
        let mut choice = Choice { cached, ..Choice::default() };
        let waiting_for_none = self.pieces.iter().enumerate().filter(|(_, piece)| piece.waits == 0);
        waiting_for_none.for_each(|(i, piece)| choice.add(i, piece));
        while let Some(i) = choice.take(&self.pieces, &mut self.chains) {
            let piece = &self.pieces[i];
            order.push(piece.part);
            for _ in 0..heads {
                if let Some(mut first) = free.peek_mut() {
                    *first = Reverse(choice.now.max(first.0) + piece.time());
                }
            }
            let chain = &mut self.chains[piece.chain as usize];
            let next_chain = chain.next.take().map(|next| (next as usize, 0));
            for (next, lag) in self.waiting_for(piece).chain(next_chain) {
                let next_piece = &mut self.pieces[next];
                next_piece.at = next_piece.at.max(choice.now + lag);
                next_piece.waits -= 1;
                if next_piece.waits == 0 {
                    choice.add(next, next_piece);
                }
            }
            choice.now = free.peek().map_or(choice.now, |Reverse(free)| choice.now.max(*free));
        }
        // What is missing would be missing from the gradients.
        assert_eq!(order.len(), self.pieces.len(), "pieces that wait for each other");
        order
    }
}

/// The pieces that wait for nobody who was not begun.
#[derive(Default)]
struct Choice {
    now: i64,
    /// By when they should begin; of the same time those with the longest paths first.
    later: BinaryHeap<Reverse<(i64, Reverse<i64>, usize)>>,
    /// Those which should have begun, the longest paths first: of chains that were, and of others.
    open: BinaryHeap<(i64, Reverse<usize>)>,
    closed: BinaryHeap<(i64, Reverse<usize>)>,
    /// Query tiles of the chains that were begun and are not through.
    tiles: i64,
    cached: i64,
}

impl Choice {
    fn add(&mut self, i: usize, piece: &Piece) {
        self.later.push(Reverse((piece.at, Reverse(piece.path), i)));
    }

    /// The next, as soon as there is one.
    fn take(&mut self, pieces: &[Piece], chains: &mut [Chain]) -> Option<usize> {
        loop {
            while let Some(Reverse((at, Reverse(path), i))) = self.later.peek().copied() {
                if at > self.now {
                    break;
                }
                self.later.pop();
                let heap =
                    if chains[pieces[i].chain as usize].open { &mut self.open } else { &mut self.closed };
                heap.push((path, Reverse(i)));
            }
            if let Some(i) = self.best(pieces, chains) {
                self.count(&mut chains[pieces[i].chain as usize]);
                return Some(i);
            }
            let Reverse((at, ..)) = self.later.peek()?;
            self.now = *at;
        }
    }

    fn best(&mut self, pieces: &[Piece], chains: &[Chain]) -> Option<usize> {
        let tiles = self.closed.peek().map(|&(_, Reverse(i))| chains[pieces[i].chain as usize].tiles());
        let fits = tiles.is_some_and(|tiles| self.tiles == 0 || self.tiles + tiles <= self.cached);
        let opens = fits && self.closed.peek() > self.open.peek();
        let (_, Reverse(i)) = if opens { self.closed.pop() } else { self.open.pop() }?;
        Some(i)
    }

    /// A piece of the chain begins.
    fn count(&mut self, chain: &mut Chain) {
        if !chain.open {
            chain.open = true;
            self.tiles += chain.tiles();
        }
        chain.left -= 1;
        if chain.left == 0 {
            self.tiles -= chain.tiles();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A causal document's walks, a key tile for every query tile; walk 100 is the first of document 1.
    fn document(number: usize, tiles: i32) -> Vec<Part> {
        let walk = |key: i32| Part {
            walk: 100 * number + key as usize,
            begin: key,
            end: tiles,
            before: 0,
            after: 0,
        };
        (0..tiles).map(walk).collect()
    }

    /// Of which document each piece is, in order, and its key tile.
    fn order(documents: &[Vec<Part>], blocks: usize, cached: i64) -> Vec<(usize, usize)> {
        let order = in_order(documents, None, 1, blocks, cached);
        order.iter().map(|part| (part.walk / 100, part.walk % 100)).collect()
    }

    #[test]
    fn documents_begin_side_by_side_where_they_fit() {
        let documents = [document(0, 40), document(1, 40), document(2, 40)];
        // Who is next in a chain should begin 2.4 tiles later: meanwhile others do.
        let side_by_side: Vec<_> = (0..3).map(|document| (document, 0)).collect();
        assert_eq!(order(&documents, 6, 120)[..3], side_by_side);
        let one_by_one = order(&documents, 6, 79);
        assert!(one_by_one.is_sorted(), "{one_by_one:?}");
        let two = order(&documents, 6, 80);
        assert_eq!(two[..2], side_by_side[..2]);
        let begun = |document| two.iter().position(|piece| *piece == (document, 0)).expect("listed");
        let through = |document| two.iter().position(|piece| *piece == (document, 39)).expect("listed");
        assert!(begun(2) > through(0).min(through(1)), "{two:?}");
    }

    #[test]
    fn the_longest_chain_comes_first() {
        let documents = [document(0, 3), document(1, 30), document(2, 10)];
        let order = order(&documents, 3, 1000);
        assert_eq!(order[..3], [(1, 0), (2, 0), (0, 0)]);
        assert_eq!(order.len(), 43);
    }

    /// Parts of 32 tiles, as far as the tests go.
    fn cuts() -> Option<Cuts> {
        Some(Cuts::new(&microseq_core::Attention::new(1, 1, 128).expect("heads"), 32))
    }

    /// The last parts of a walk come first, and so long before the next that nobody waits at the end.
    #[test]
    fn parts_of_a_walk_do_not_end_together() {
        let walk = |walk: usize| {
            let part = move |before: i32| Part {
                walk,
                begin: 32 * (3 - before),
                end: 32 * (4 - before),
                before,
                after: 3 - before,
            };
            (0..4).map(part)
        };
        let documents = [(0..8).flat_map(walk).collect()];
        let order = in_order(&documents, cuts(), 1, 32, 1000);
        assert_eq!(order.len(), 32);
        // Key tile 2 of the first part is two turns behind its chain, key tile 0 of the next an addition.
        let places: Vec<_> = order.iter().take(5).map(|part| (part.walk, part.before)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (2, 0), (0, 1), (3, 0)]);
    }

    /// Nobody is left out where no key tile meets some part of the queries.
    #[test]
    fn chains_may_have_gaps() {
        let part =
            |walk, number: i32| Part { walk, begin: 32 * number, end: 32 * number + 7, before: 0, after: 0 };
        let documents = [vec![part(0, 0), part(1, 0), part(2, 3), part(3, 3)]];
        for cached in [0, 1000] {
            let mut order = in_order(&documents, cuts(), 3, 2, cached);
            assert_eq!(order[0], documents[0][2]);
            order.sort_by_key(|part| part.walk);
            assert_eq!(order, documents[0]);
        }
    }
}
