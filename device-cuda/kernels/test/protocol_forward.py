"""The barriers of forward_wgmma without a GPU: do all waits end, is nothing overwritten too early?

    python3 protocol_forward.py [CASES]

Blocks do not wait for each other, so one is enough.
"""

import random

from barriers import Barrier, Stage, Unit, schedule, try_cases

STAGES = 2


class Block:
    """Pieces are lists of tiles of keys; those without any come last. Of each, `seen` says which tiles each of the
    groups multiplies: of three, perhaps none."""

    def __init__(self, pieces, seen, query_stages, groups, rng):
        self.pieces, self.seen, self.query_stages, self.rng = pieces, seen, query_stages, rng
        some = lambda count, arrivals: [Barrier(arrivals) for _ in range(count)]
        self.q_here, self.q_free = some(query_stages, 1), some(query_stages, groups)
        self.k_here, self.k_free = some(STAGES, 1), some(STAGES, groups)
        self.v_here, self.v_free = some(STAGES, 1), some(STAGES, groups)
        self.q, self.k, self.v = [None] * query_stages, [None] * STAGES, [None] * STAGES
        self.unit = Unit(groups)
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

        def skip(i):
            if i > 0:
                yield from self.unit.take(group)
                self.unit.give(group)
            yield from k.filled(self.k_here)
            free(k, self.k_free)
            yield from v.filled(self.v_here)
            free(v, self.v_free)

        def multiply(piece, seen):
            later = seen.start > 0
            yield from k.filled(self.k_here)
            if later:
                yield from self.unit.take(group)
            flying.append((self.k, k.stage, piece[seen.start]))
            if later:
                self.unit.give(group)
            yield from land(0)
            free(k, self.k_free)
            for i in seen[1:]:
                yield from k.filled(self.k_here)
                yield from self.unit.take(group)
                flying.append((self.k, k.stage, piece[i]))
                yield from v.filled(self.v_here)
                flying.append((self.v, v.stage, piece[i - 1]))
                self.unit.give(group)
                yield from land(1)
                free(k, self.k_free)
                yield from land(0)
                free(v, self.v_free)
            yield from v.filled(self.v_here)
            flying.append((self.v, v.stage, piece[seen[-1]]))
            yield from land(0)
            free(v, self.v_free)

        for piece, groups in zip(self.pieces, self.seen):
            if not piece:
                continue
            seen = groups[group]
            yield from q.filled(self.q_here)
            assert self.q[q.stage] is piece, "q is another's"
            for i in range(seen.start):
                yield from skip(i)
            if seen:
                yield from multiply(piece, seen)
            for i in range(seen.stop, len(piece)):
                yield from skip(i)
            free(q, self.q_free)
            self.made.append(piece)


def part(rng, tiles):
    begin, end = sorted((rng.randint(0, tiles), rng.randint(0, tiles)))
    return range(begin, end)


def run(seed):
    rng = random.Random(seed)
    groups = rng.choice([2, 3])
    pieces = [[object() for _ in range(rng.choice([0, 1, 1, 2, 3, 7]))] for _ in range(rng.randint(0, 6))]
    pieces.sort(key=len, reverse=True)
    seen = [[part(rng, len(piece)) if groups > 2 else range(len(piece)) for _ in range(groups)] for piece in pieces]
    block = Block(pieces, seen, rng.choice([1, 2]), groups, rng)
    schedule(rng, [block.loader(), *map(block.multiplier, range(groups))],
             lambda: (block.unit.passed, len(block.made)))
    assert len(block.made) == groups * sum(map(bool, pieces)), "a piece was left out"


try_cases("forward", run)
