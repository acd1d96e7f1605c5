"""In which order blocks take pieces of the backward's work: twin of src/schedule/order.rs, which says why."""

import heapq
import itertools

TILE, ENDS, TURN, ADD = 10, 31, 24, 64
BEGIN, END, BEFORE = 6, 7, -2  # of a KeyTile


class Piece:
    def __init__(self, tile, chain):
        self.tile, self.chain = tile, chain
        self.time = TILE * (tile[END] - tile[BEGIN]) + ENDS
        self.next_keys = self.next_part = self.next_chain = None
        self.waits = self.at = 0

    def waiting(self):
        """Who waits for it, and how long after it these should begin."""
        if self.next_keys:
            yield self.next_keys, TURN + TILE * (self.tile[END] - self.next_keys.tile[END])
        if self.next_part:
            yield self.next_part, self.time + ADD - self.next_part.time


class Chain:
    def __init__(self):
        self.pieces, self.begun = [], 0

    def tiles(self):
        return max(p.tile[END] for p in self.pieces) - min(p.tile[BEGIN] for p in self.pieces)


def pieces_of(documents, part):
    pieces = []
    for tiles in documents:
        chains = {}
        for tile in tiles:
            chain = chains.setdefault(tile[BEGIN] // part if part else 0, Chain())
            piece = Piece(tile, chain)
            if chain.pieces:
                chain.pieces[-1].next_keys = piece
            if tile[BEFORE]:
                pieces[-1].next_part = piece
            piece.waits = bool(chain.pieces) + bool(tile[BEFORE])
            chain.pieces.append(piece)
            pieces.append(piece)
        numbers = sorted(chains)
        for number, behind in zip(numbers, numbers[1:]):
            first = chains[number].pieces[0]
            chains[behind].pieces[0].next_chain = first
            first.waits += 1
    for i, piece in reversed(list(enumerate(pieces))):
        piece.path = max([piece.time, *(lag + p.path for p, lag in piece.waiting())])
        piece.rank = -piece.path, i
    return pieces


def in_order(documents, part, kv_heads, blocks, cached):
    """Pieces in the order in which blocks should begin them, given key tile by key tile, the last part of each first."""
    pieces = pieces_of(documents, part)
    free, now, tiles, order = [0] * blocks, 0, 0, []
    later = [(0, *p.rank) for p in pieces if not p.waits]
    heapq.heapify(later)
    opened, closed = [], []  # by rank; of chains that were begun, and of others
    while len(order) < len(pieces):
        now = max(now, free[0])
        while later and later[0][0] <= now:
            _, *rank = heapq.heappop(later)
            heapq.heappush(opened if pieces[rank[1]].chain.begun else closed, rank)
        fits = closed and (not tiles or tiles + pieces[closed[0][1]].chain.tiles() <= cached)
        if fits and (not opened or closed[0] < opened[0]):
            piece = pieces[heapq.heappop(closed)[1]]
        elif opened:
            piece = pieces[heapq.heappop(opened)[1]]
        else:
            now = later[0][0]
            continue
        order.append(piece.tile)
        for _ in range(kv_heads):
            heapq.heapreplace(free, max(now, free[0]) + piece.time)
        chain = piece.chain
        tiles += 0 if chain.begun else chain.tiles()
        chain.begun += 1
        tiles -= chain.tiles() if chain.begun == len(chain.pieces) else 0
        for waiting, lag in itertools.chain(piece.waiting(), [(piece.next_chain, 0)] if piece.next_chain else []):
            waiting.at, waiting.waits = max(waiting.at, now + lag), waiting.waits - 1
            if not waiting.waits:
                heapq.heappush(later, (waiting.at, *waiting.rank))
    return order
