"""The barriers of forward_wgmma without a GPU: do all waits end, is nothing overwritten too early?

    python3 protocol_forward.py [CASES]

Blocks do not wait for each other, so one is enough.
"""

import random

from barriers import Barrier, Stage, Unit, schedule, try_cases

STAGES, GROUPS = 2, 2


class Block:
    """Pieces are lists of tiles of keys; those without any come last."""

    def __init__(self, pieces, query_stages, rng):
        self.pieces, self.query_stages, self.rng = pieces, query_stages, rng
        some = lambda count, arrivals: [Barrier(arrivals) for _ in range(count)]
        self.q_here, self.q_free = some(query_stages, 1), some(query_stages, GROUPS)
        self.k_here, self.k_free = some(STAGES, 1), some(STAGES, GROUPS)
        self.v_here, self.v_free = some(STAGES, 1), some(STAGES, GROUPS)
        self.q, self.k, self.v = [None] * query_stages, [None] * STAGES, [None] * STAGES
        self.unit = Unit()
        self.made = []

    def loader(self):
        q, k, v = Stage(self.query_stages), Stage(STAGES), Stage(STAGES)
        for piece in filter(None, self.pieces):
            yield from q.free(self.q_free)
            self.q[q.stage] = piece
            self.q_here[q.stage].arrive()
            q.advance()
            for tile in piece:
                for stage, what, here, free in ((k, self.k, self.k_here, self.k_free),
                                                (v, self.v, self.v_here, self.v_free)):
                    yield from stage.free(free)
                    what[stage.stage] = tile
                    here[stage.stage].arrive()
                    stage.advance()

    def multiplier(self, group):
        q, k, v = Stage(self.query_stages), Stage(STAGES), Stage(STAGES)
        pieces = [piece for piece in self.pieces if piece]
        flying = []  # reads that products make until they are waited for

        def land(left):
            while len(flying) > left:
                if self.rng.random() < 0.5:
                    yield
                what, at, expected = flying.pop(0)
                assert what[at] is expected, "overwritten while it was read"

        def free(stage, barriers):
            barriers[stage.stage].arrive()
            stage.advance()

        for piece in pieces:
            yield from q.filled(self.q_here)
            yield from k.filled(self.k_here)
            assert self.q[q.stage] is piece, "q is another's"
            flying.append((self.k, k.stage, piece[0]))
            yield from land(0)
            free(k, self.k_free)
            for before, tile in zip(piece, piece[1:]):
                yield from k.filled(self.k_here)
                yield from self.unit.take(group)
                flying.append((self.k, k.stage, tile))
                yield from v.filled(self.v_here)
                flying.append((self.v, v.stage, before))
                self.unit.give(group)
                yield from land(1)
                free(k, self.k_free)
                yield from land(0)
                free(v, self.v_free)
            yield from v.filled(self.v_here)
            flying.append((self.v, v.stage, piece[-1]))
            yield from land(0)
            free(v, self.v_free)
            free(q, self.q_free)
            self.made.append(piece)


def run(seed):
    rng = random.Random(seed)
    pieces = [[object() for _ in range(rng.choice([0, 1, 1, 2, 3, 7]))] for _ in range(rng.randint(0, 6))]
    pieces.sort(key=len, reverse=True)
    block = Block(pieces, rng.choice([1, 2]), rng)
    schedule(rng, [block.loader(), block.multiplier(0), block.multiplier(1)],
             lambda: (block.unit.passed, len(block.made)))
    assert len(block.made) == 2 * sum(map(bool, pieces)), "a piece was left out"


try_cases("forward", run)
