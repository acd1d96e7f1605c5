"""Parts of the backward's walks, and in which order blocks take them: twin of src/cuts.rs, src/schedule/parts.rs
and order.rs, which say why. A walk is a list whose elements 6 and 7 are the first of its query tiles and the one behind the last."""

import bisect
import heapq
import itertools

from documents import NO_WINDOW

MANY_HEADS = 8  # with fewer K/V heads walks are cut
# Query rows before each part of a document; behind these all are equal.
TWO_HEADS = [0, 1024, 2048, 3072, 4096, 5120, 6144]
MORE_HEADS = [0, 1024, 2048, 4096, 6144, 8192]
CACHE_OF_PARTS = 48 << 20
CACHE_OF_WALKS = 3 * CACHE_OF_PARTS
TILE, ENDS, TURN, ADD = 10, 31, 24, 64
BEGIN, END = 6, 7


class Cuts:
    """Where walks are cut, in query tiles of so many rows."""

    def __init__(self, kv_heads, tile_rows):
        begins, long = (TWO_HEADS, 2048) if kv_heads <= 2 else (MORE_HEADS, 4096)
        self.begins, self.grain = [row // tile_rows for row in begins], long // tile_rows
        self.before = self.begins[1]  # tiles of a part before position 0

    def number(self, tile):
        """Which part a tile is in."""
        if tile < 0:
            return tile // self.before
        last = len(self.begins) - 1
        return min(bisect.bisect_right(self.begins, tile) - 1, last) + max(tile - self.begins[last], 0) // self.grain

    def begin(self, number):
        """A part's first tile."""
        if number < 0:
            return number * self.before
        last = len(self.begins) - 1
        return self.begins[min(number, last)] + max(number - last, 0) * self.grain


def cuts_of(kv_heads, window, tile_rows):
    """Where walks over tiles of so many query rows are cut, or None."""
    return Cuts(kv_heads, tile_rows) if kv_heads < MANY_HEADS or window != NO_WINDOW else None


def grain_of(cuts):
    """Of tiles: their sums of dk and dv begin anew at all multiples of so many."""
    return cuts.grain if cuts else 1


def parts_of(walk, cuts):
    """The parts that a walk has, the last query tiles first: begin, end, and how many come before and after."""
    first, last = cuts.number(walk[BEGIN]), cuts.number(walk[END] - 1)
    for i in range(last, first - 1, -1):
        yield max(walk[BEGIN], cuts.begin(i)), min(walk[END], cuts.begin(i + 1)), last - i, i - first


def pieces(walks, cuts, kv_heads, query_tile, blocks, cut, before):
    """Walks by document in parts, in the order in which blocks should begin them. `cut(walk, ...)` makes one of what
    `parts_of` says of it; element `before` of it is how many parts come before. A query tile takes so many bytes."""
    if cuts:
        walks = [[cut(walk, *of_walk) for walk in mine for of_walk in parts_of(walk, cuts)] for mine in walks]
    cached = (CACHE_OF_PARTS if cuts else CACHE_OF_WALKS) // (query_tile * kv_heads)
    return in_order(walks, cuts, kv_heads, blocks, cached, before)


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


def linked(documents, cuts, before):
    pieces = []
    for tiles in documents:
        chains = {}
        for tile in tiles:
            chain = chains.setdefault(cuts.number(tile[BEGIN]) if cuts else 0, Chain())
            piece = Piece(tile, chain)
            if chain.pieces:
                chain.pieces[-1].next_keys = piece
            if tile[before]:
                pieces[-1].next_part = piece
            piece.waits = bool(chain.pieces) + bool(tile[before])
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


def in_order(documents, cuts, kv_heads, blocks, cached, before):
    """Pieces in the order in which blocks should begin them, given key tile by key tile, the last part of each first."""
    pieces = linked(documents, cuts, before)
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
