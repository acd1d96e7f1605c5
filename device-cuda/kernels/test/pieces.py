"""Random pieces of the backward's work, for the roles of its blocks (protocol_backward*.py)."""

import random

from barriers import schedule


class Tile:
    def __init__(self, name, turn, last, ends):
        self.name, self.turn, self.last, self.ends = name, turn, last, ends


class Piece:
    """A part of a walk; `walk` is its name among the counters."""

    def __init__(self, walk, before, after, finishes, tiles):
        self.walk, self.before, self.after, self.finishes, self.tiles = walk, before, after, finishes, tiles


def cut(walk, name, length):
    """The parts of a walk, cut where `length` divides the number of a query tile, and by what they are sorted."""
    parts = []
    for name_, turn, last in walk:
        if not parts or length and name_[1] // length != parts[-1][-1].name[1] // length:
            parts.append([])
        parts[-1].append(Tile(name_, turn, last, False))
    for part in parts:
        part[-1].ends = True
    at = lambda part: -(part[0].name[1] // length) if length else 0
    return [(at(part), name[2], Piece(name, i, len(parts) - 1 - i, length > 0, part))
            for i, part in enumerate(parts)]


def random_pieces(rng):
    """Documents' pieces in their order, each with the query tiles that it walks, last to first."""
    per_key_tile = rng.choice([1, 2, 3, 8])
    length = rng.choice([0, 0, 1, 2, 3, 5])
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
            pieces += cut(walk, ("walk", document, j), length)
        documents.append([piece for _, _, piece in sorted(pieces, key=lambda x: x[:2])])
    documents.sort(key=lambda pieces: -sum(len(piece.tiles) for piece in pieces))
    return [piece for pieces in documents for piece in pieces]


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
