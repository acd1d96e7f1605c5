"""The barriers of backward_wgmma without a GPU: do all waits end, is nothing overwritten too early?

    python3 protocol_backward.py [CASES]

Every role of own_keys.cuh and serve.cuh is a generator that waits and arrives as the kernel does and
does nothing else; the roles of several blocks run in random order, over random documents in the order in
which the host lists them. What a role reads must be what it was put there for.
"""

import random

from barriers import Barrier, Stage, Unit, schedule, try_cases

KEY_STAGES, STAGES, DS_STAGES, GROUPS = 2, 3, 2, 2


class Block:
    """One block's shared memory and its roles. `turns` and `tickets` are global."""

    def __init__(self, pieces, tickets, turns, rng):
        self.pieces, self.tickets, self.turns, self.rng = pieces, tickets, turns, rng
        some = lambda count, arrivals: [Barrier(arrivals) for _ in range(count)]
        self.k_here, self.k_free = some(KEY_STAGES, 1), some(KEY_STAGES, GROUPS + 3)
        self.q_here, self.q_free = some(STAGES, 1), some(STAGES, GROUPS)
        self.dout_here, self.dout_free = some(STAGES, 1), some(STAGES, GROUPS)
        self.ds_here, self.ds_free = some(DS_STAGES, GROUPS), some(DS_STAGES, GROUPS)
        self.turn, self.dq_done, self.passed = some(DS_STAGES, 1), some(DS_STAGES, GROUPS), some(DS_STAGES, 1)
        self.v_here, self.v_free = Barrier(1), Barrier(GROUPS)
        self.unit = Unit()
        self.mail, self.k, self.v = [None] * KEY_STAGES, [None] * KEY_STAGES, None
        self.q, self.dout = [None] * STAGES, [None] * STAGES
        self.ds = [[None] * GROUPS for _ in range(DS_STAGES)]

    def roles(self):
        return [self.loader(), self.granter(), self.passer(), self.owner(0), self.owner(1)]

    def loader(self):
        keys, stage, v_parity = Stage(KEY_STAGES), Stage(STAGES), 0

        def bring_keys():
            ticket = self.tickets.pop()
            yield
            yield from keys.free(self.k_free)
            at = keys.stage
            keys.advance()
            self.mail[at] = self.pieces[ticket] if ticket < len(self.pieces) else None
            self.k[at] = self.mail[at]
            self.k_here[at].arrive()

        walk = Stage(KEY_STAGES)
        yield from bring_keys()
        while self.mail[walk.stage]:
            piece = self.mail[walk.stage]
            last = len(piece) - 1
            bring_keys_at = min(max(last - 2, 1), last)
            for i, tile in enumerate(piece):
                yield from stage.free(self.q_free)
                self.q[stage.stage] = tile
                self.q_here[stage.stage].arrive()
                yield from stage.free(self.dout_free)
                self.dout[stage.stage] = tile
                self.dout_here[stage.stage].arrive()
                stage.advance()
                if i == 0:
                    yield from self.v_free.wait(v_parity ^ 1)
                    v_parity ^= 1
                    self.v = piece
                    self.v_here.arrive()
                if i == bring_keys_at:
                    yield from bring_keys()
            self.k_free[walk.stage].arrive()
            walk.advance()

    def each_tile(self, visit):
        keys, ds = Stage(KEY_STAGES), Stage(DS_STAGES)
        while True:
            yield from keys.filled(self.k_here)
            piece = self.mail[keys.stage]
            if not piece:
                return
            for tile in list(piece):
                yield from visit(tile, ds)
                ds.advance()
            self.k_free[keys.stage].arrive()
            keys.advance()

    def granter(self):
        def grant(tile, ds):
            yield from ds.free(self.passed)
            while self.turns.get(tile.name, 0) != tile.turn:
                yield
            self.turn[ds.stage].arrive()
        return self.each_tile(grant)

    def passer(self):
        def pass_on(tile, ds):
            yield from ds.filled(self.dq_done)
            yield
            if not tile.last:
                assert self.turns.get(tile.name, 0) == tile.turn, "out of turn"
                self.turns[tile.name] = tile.turn + 1
            self.passed[ds.stage].arrive()
        return self.each_tile(pass_on)

    def owner(self, group):
        keys, stage, ds = Stage(KEY_STAGES), Stage(STAGES), Stage(DS_STAGES)
        older = newer = None
        v_parity = 0

        def make_dq(k):
            if older:
                yield from self.ds_here[ds.stage].wait(ds.parity ^ 1)
                assert self.ds[ds.stage] == [older] * GROUPS, "ds overwritten"
                assert older in self.k[k], "k overwritten"

        def put_dq(k):
            nonlocal older
            if not older:
                return
            self.ds_free[ds.stage].arrive()
            yield from self.turn[ds.stage].wait(ds.parity ^ 1)
            assert self.turns.get(older.name, 0) == older.turn, "added out of turn"
            if self.rng.random() < 0.3:
                yield
            assert self.mail[k] and older in self.mail[k], "piece overwritten"
            self.dq_done[ds.stage].arrive()
            if older.ends:
                self.k_free[k].arrive()
            older = None

        while True:
            yield from keys.filled(self.k_here)
            piece = self.mail[keys.stage]
            if not piece:
                break
            yield from self.unit.take(group)
            for i in range(len(piece)):
                older_k = keys.stage ^ (i < 2)
                yield from make_dq(older_k)
                yield from stage.filled(self.q_here)
                tile = self.q[stage.stage]
                assert tile is piece[i] and self.k[keys.stage] is piece, "q or k overwritten"
                self.unit.give(group)
                if i > 0:
                    self.q_free[before].arrive()
                if self.turn[ds.stage].complete(ds.parity ^ 1):
                    yield from put_dq(older_k)
                if self.rng.random() < 0.3:
                    yield
                yield from put_dq(older_k)
                if i == 0:
                    yield from self.v_here.wait(v_parity)
                yield from stage.filled(self.dout_here)
                yield from self.unit.take(group)
                assert self.dout[stage.stage] is tile and self.v is piece, "dout or v overwritten"
                self.unit.give(group)
                if self.rng.random() < 0.3:
                    yield
                self.dout_free[stage.stage].arrive()
                if tile.ends:
                    self.v_free.arrive()
                yield from ds.free(self.ds_free)
                self.ds[ds.stage][group] = tile
                self.ds_here[ds.stage].arrive()
                yield from self.unit.take(group)
                older, newer, before = newer, tile, stage.stage
                stage.advance()
                ds.advance()
            self.unit.give(group)
            self.q_free[before].arrive()
            if len(piece) == 1:
                yield from make_dq(keys.stage ^ 1)
                yield from put_dq(keys.stage ^ 1)
            v_parity ^= 1
            keys.advance()
        for _ in range(2):
            yield from make_dq(keys.stage ^ 1)
            yield from put_dq(keys.stage ^ 1)
            older, newer = newer, None
            ds.advance()


class Tile:
    def __init__(self, name, turn, last, ends):
        self.name, self.turn, self.last, self.ends = name, turn, last, ends


def random_pieces(rng):
    """Documents' tiles of keys, ascending, each with the query tiles that it walks, last to first."""
    per_key_tile = rng.choice([1, 2, 3, 8])
    documents = []
    for document in range(rng.randint(1, 6)):
        first = rng.choice([0, 0, rng.randint(0, 5 * per_key_tile)])
        end = first + rng.randint(1, rng.choice([2, 4, 12]))
        window = rng.choice([10**6, 10**6, rng.randint(1, 6)])  # in query tiles
        low = lambda t: max(0, t - window + 1) // per_key_tile
        pieces = []
        for j in range((end - 1) // per_key_tile + 1):
            walk = [t for t in range(end - 1, first - 1, -1) if low(t) <= j <= t // per_key_tile]
            pieces.append([Tile((document, t), j - low(t), t // per_key_tile == j, t == walk[-1])
                           for t in walk])
        documents.append([p for p in pieces if p])
    documents.sort(key=lambda pieces: -sum(map(len, pieces)))
    return [piece for pieces in documents for piece in pieces]


def run(seed):
    rng = random.Random(seed)
    pieces, turns = random_pieces(rng), {}
    tickets = list(range(10**4, -1, -1))
    blocks = [Block(pieces, tickets, turns, rng) for _ in range(rng.choice([1, 2, 3, 5]))]
    roles = [role for block in blocks for role in block.roles()]
    schedule(rng, roles, lambda: (len(tickets), sum(turns.values())))


try_cases("backward", run)
