"""Random pieces of the backward's work, for the roles of its blocks (protocol_backward*.py)."""

import random

from barriers import schedule


class Tile:
    def __init__(self, name, turn, last, ends):
        self.name, self.turn, self.last, self.ends = name, turn, last, ends


class Piece:
    """A part of a walk; `walk` is its name among the counters. It adds to the store in turn, or leaves that to others."""

    def __init__(self, walk, before, after, adds, tiles):
        self.walk, self.before, self.after, self.adds, self.tiles = walk, before, after, adds, tiles


def cut(walk, name, length, order, band):
    """The parts of a walk, cut where `length` divides the number of a query tile, and by what they are sorted."""
    parts = []
    for name_, turn, last in walk:
        if not parts or length and name_[1] // length != parts[-1][-1].name[1] // length:
            parts.append([])
        parts[-1].append(Tile(name_, turn, last, False))
    for part in parts:
        part[-1].ends = True
    left = len(parts) - 1 if order == "apart" else 0
    adding = len(parts) - left
    pieces = []
    for i, part in enumerate(parts):
        adds = i < adding
        piece = Piece(name, i if adds else 0, adding - 1 - i if adds else 0, adds, part)
        number = part[0].name[1] // length if length else 0
        place = {"windowed": (-number, name[2]), "apart": (-(number // band), name[2]),
                 "diagonals": (-(number // band), name[2] - number)}[order]
        pieces.append((place, i, name[2], piece))
    return pieces


def longest_first(pieces, last):
    """The last pieces of all by their weights, each at least as heavy as its document's behind it."""
    tail = pieces[len(pieces) - last:]
    weights, heaviest = [], {}
    for document, piece in reversed(tail):
        heaviest[document] = max(heaviest.get(document, 0), len(piece.tiles))
        weights.insert(0, heaviest[document])
    order = sorted(range(len(tail)), key=lambda i: -weights[i])
    return [*pieces[:len(pieces) - last], *(tail[i] for i in order)]


def random_pieces(rng):
    """Documents' pieces in their order, each with the query tiles that it walks, last to first."""
    per_key_tile = rng.choice([1, 2, 3, 8])
    length, order = rng.choice([0, 0, 1, 2, 3, 5]), rng.choice(["windowed", "diagonals", "apart"])
    band = rng.choice([1, 2, 100])
    documents = []
    for document in range(rng.randint(1, 6)):
        first = rng.choice([0, 0, rng.randint(0, 5 * per_key_tile)])
        end = first + rng.randint(1, rng.choice([2, 4, 12]))
        window = rng.choice([10**6, 10**6, rng.randint(1, 6)])  # in query tiles
        low = lambda t: max(0, t - window + 1) // per_key_tile
        pieces = []
        for j in range((end - 1) // per_key_tile + 1):
            walk = [((document, t), j - low(t), t // per_key_tile == j)
                    for t in range(end - 1, first - 1, -1) if low(t) <= j <= t // per_key_tile]
            pieces += cut(walk, ("walk", document, j), length, order, band)
        documents.append([(document, piece) for *_, piece in sorted(pieces, key=lambda x: x[:3])])
    documents.sort(key=lambda pieces: -sum(len(piece.tiles) for _, piece in pieces))
    pieces = [piece for pieces in documents for piece in pieces]
    return [piece for _, piece in longest_first(pieces, rng.randint(0, len(pieces)))]


def visits(pieces, adders):
    """What the counters say when all is done, `adders` having added a piece's dk and dv."""
    counters = {}
    for piece in pieces:
        for tile in piece.tiles:
            counters[tile.name] = counters.get(tile.name, 0) + 1
        if piece.adds:
            counters["added", piece.walk] = counters.get(("added", piece.walk), 0) + adders
        if piece.after:
            counters[piece.walk] = max(counters.get(piece.walk, 0), piece.before + 1)
    return counters


def put_gradient(block, piece, adders):
    """One of `adders` adds its part of a piece's dk and dv to the store, behind all of the walk's parts before, or leaves
    it elsewhere."""
    turns, name = block.turns, ("added", piece.walk)
    if not piece.adds:
        return
    while turns.get(piece.walk, 0) < piece.before:
        yield
    added = turns.get(name, 0)
    assert piece.before * adders <= added < (piece.before + 1) * adders, "dk or dv added out of turn"
    turns[name] = added + 1


def take_piece(block, keys):
    """The loader's next piece, or none, to its mail; returns in which of the stages `keys`."""
    ticket = block.tickets.pop()
    yield
    yield from keys.free(block.k_free)
    at = keys.stage
    keys.advance()
    block.mail[at] = block.pieces[ticket] if ticket < len(block.pieces) else None
    return at


def run_blocks(seed, block):
    """Runs the roles of some blocks `block(pieces, tickets, turns, rng)` to their ends."""
    rng = random.Random(seed)
    pieces, turns = random_pieces(rng), {}
    tickets = list(range(10**4, -1, -1))
    blocks = [block(pieces, tickets, turns, rng) for _ in range(rng.choice([1, 2, 3, 5]))]
    roles = [role for block in blocks for role in block.roles()]
    schedule(rng, roles, lambda: (len(tickets), sum(turns.values())))
    return pieces, turns
