"""Random pieces of the backward's work, for the roles of its blocks (protocol_backward*.py)."""

import random

from barriers import schedule


class Tile:
    def __init__(self, name, turn, last, ends):
        self.name, self.turn, self.last, self.ends = name, turn, last, ends


class Piece:
    """A part of a walk, which is `walk` among the counters, or all of it: then it has the store to itself."""

    def __init__(self, walk, before, after, adds, tiles):
        self.walk, self.before, self.after, self.adds, self.tiles = walk, before, after, adds, tiles


def cut(walk, name, length):
    """The parts of a walk, cut where `length` divides the number of a query tile."""
    parts = []
    for name_, turn, last in walk:
        if not parts or length and name_[1] // length != parts[-1][-1].name[1] // length:
            parts.append([])
        parts[-1].append(Tile(name_, turn, last, False))
    for part in parts:
        part[-1].ends = True
    return [Piece(name, i, len(parts) - 1 - i, length > 0, part) for i, part in enumerate(parts)]


def waits_for(piece, other):
    """Whether one waits for the other to add its dq, or its dk and dv."""
    if piece.walk == other.walk:
        return other.before < piece.before
    before = {tile.name: tile.turn for tile in other.tiles}
    return any(before.get(tile.name, tile.turn) < tile.turn for tile in piece.tiles)


def in_some_order(rng, pieces):
    """Any order in which nobody waits for those behind."""
    waiting = {piece: {other for other in pieces if waits_for(piece, other)} for piece in pieces}
    begun, order = set(), []
    hurry = rng.random()  # rather those that were listed first
    while waiting:
        free = [piece for piece, others in waiting.items() if others <= begun]
        piece = free[0] if rng.random() < hurry else rng.choice(free)
        del waiting[piece]
        begun.add(piece)
        order.append(piece)
    return order


def random_pieces(rng):
    """Documents' pieces in some order, each with the query tiles that it walks, last to first."""
    per_key_tile, length = rng.choice([1, 2, 3, 8]), rng.choice([0, 0, 1, 2, 3, 5])
    pieces = []
    for document in range(rng.randint(1, 6)):
        first = rng.choice([0, 0, rng.randint(0, 5 * per_key_tile)])
        end = first + rng.randint(1, rng.choice([2, 4, 12]))
        window = rng.choice([10**6, 10**6, rng.randint(1, 6)])  # in query tiles
        low = lambda t: max(0, t - window + 1) // per_key_tile
        for j in range((end - 1) // per_key_tile + 1):
            walk = [((document, t), j - low(t), t // per_key_tile == j)
                    for t in range(end - 1, first - 1, -1) if low(t) <= j <= t // per_key_tile]
            pieces += cut(walk, ("walk", document, j), length)
    return in_some_order(rng, pieces)


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
    """One of `adders` adds its part of a piece's dk and dv to the store, behind all of the walk's parts before."""
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
