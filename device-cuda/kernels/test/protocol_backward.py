"""The barriers of backward_wgmma without a GPU: do all waits end, is nothing overwritten too early?

    python3 protocol_backward.py [CASES]

Every role of own_keys.cuh and serve.cuh is a generator that waits and arrives as the kernel does and
does nothing else; the roles of several blocks run in random order, over random documents in the order in
which the host lists them. What a role reads must be what it was put there for.
"""

from barriers import Barrier, Stage, Unit, try_cases
from pieces import put_gradient, run_blocks, take_piece, visits

STAGES, ADDERS, GROUPS = 2, 3, 2
NO_QUERIES = object()  # a tile behind the only one of a piece


class Block:
    """One block's shared memory and its roles. `turns` and `tickets` are global. dk and dv are staged or not."""

    def __init__(self, pieces, tickets, turns, rng, staged):
        self.pieces, self.tickets, self.turns, self.rng = pieces, tickets, turns, rng
        some = lambda count, arrivals: [Barrier(arrivals) for _ in range(count)]
        self.k_here, self.k_free = some(STAGES, 1), some(STAGES, GROUPS + 1 + ADDERS)
        self.q_here, self.q_free = some(STAGES, 1), some(STAGES, GROUPS)
        self.dout_here, self.dout_free = some(STAGES, 1), some(STAGES, GROUPS)
        self.ds_here, self.ds_free = some(STAGES, GROUPS), some(STAGES, GROUPS)
        self.sum_here, self.dq_here, self.dq_free = some(ADDERS, 1), some(ADDERS, GROUPS), some(ADDERS, 1)
        self.stored = some(STAGES, GROUPS)
        self.v_here, self.v_free = Barrier(1), Barrier(GROUPS)
        self.staged, self.dkv_here, self.dkv_free, self.dkv = staged, Barrier(1), Barrier(GROUPS), None
        self.mail, self.k, self.v = [None] * STAGES, [None] * STAGES, None
        self.unit, self.dq = Unit(), [None] * GROUPS
        self.q, self.dout = [None] * STAGES, [None] * STAGES
        self.ds = [[None] * GROUPS for _ in range(STAGES)]

    def roles(self):
        return [self.loader(), *map(self.adder, range(ADDERS)), self.owner(0), self.owner(1)]

    def loader(self):
        keys, stage, v_parity = Stage(STAGES), Stage(STAGES), 0

        def bring_keys():
            at = yield from take_piece(self, keys)
            self.k[at] = self.mail[at]
            self.k_here[at].arrive()

        walk = Stage(STAGES)
        yield from bring_keys()
        while self.mail[walk.stage]:
            piece = self.mail[walk.stage]
            last = max(len(piece.tiles), 2) - 1
            bring_keys_at = min(max(last - 2, 1), last)
            if self.staged:
                yield from self.dkv_free.wait(v_parity ^ 1)
                self.dkv = piece
                self.dkv_here.arrive()
            count = len(piece.tiles)
            for i, tile in enumerate(piece.tiles if count > 1 else [*piece.tiles, NO_QUERIES]):
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

    def adder(self, mine):
        keys, stage = Stage(STAGES), Stage(ADDERS)
        while True:
            yield from keys.filled(self.k_here)
            piece = self.mail[keys.stage]
            if not piece:
                return
            count = len(piece.tiles)
            for i, tile in enumerate([*piece.tiles, None]):
                if mine == 0 and i == (count - 2 if count > 1 else count):
                    yield from self.pass_walk_on(piece, keys)
                if not tile:
                    break
                if stage.stage == mine:
                    yield from self.serve(tile, stage)
                stage.advance()
            self.k_free[keys.stage].arrive()
            keys.advance()

    def pass_walk_on(self, piece, keys):
        yield from keys.filled(self.stored)
        if piece.after:
            self.turns[piece.walk] = piece.before + 1

    def serve(self, tile, stage):
        at = stage.stage
        while self.turns.get(tile.name, 0) != tile.turn:
            yield
        if tile.last:
            if tile.turn:
                yield from stage.before().filled(self.dq_free)
                self.dq = [(tile, "sum")] * GROUPS
            self.sum_here[at].arrive()
            yield from stage.filled(self.dq_here)
            self.dq_free[at].arrive()
            self.turns[tile.name] = tile.turn + 1  # for `run` only: nobody waits for it
            return
        yield from stage.filled(self.dq_here)
        for _ in range(self.rng.randint(0, 3)):
            yield
        assert self.dq == [tile] * GROUPS, "dq overwritten"
        self.sum_here[at].arrive()
        self.dq_free[at].arrive()
        for _ in range(self.rng.randint(0, 3)):
            yield
        assert self.turns.get(tile.name, 0) == tile.turn, "out of turn"
        self.turns[tile.name] = tile.turn + 1

    def owner(self, group):
        keys, stage, dq_stage = Stage(STAGES), Stage(STAGES), Stage(ADDERS)
        older = newer = None
        v_parity = 0

        def make_dq(k):
            if older:
                yield from self.ds_here[stage.stage].wait(stage.parity ^ 1)
                assert self.ds[stage.stage] == [older] * GROUPS, "ds overwritten"
                assert older is NO_QUERIES or older in self.k[k].tiles, "k overwritten"

        def put_dq(k):
            if not older:
                return
            self.ds_free[stage.stage].arrive()
            if older is NO_QUERIES:
                return
            yield from dq_stage.before().filled(self.dq_free)
            if older.last:
                yield from dq_stage.filled(self.sum_here)
                assert not older.turn or self.dq[group] == (older, "sum"), "sum overwritten"
                assert self.turns.get(older.name, 0) == older.turn, "added out of turn"
                assert self.mail[k] and older in self.mail[k].tiles, "piece overwritten"
            else:
                self.dq[group] = older
            if self.rng.random() < 0.3:
                yield

        def publish_dq(k):
            nonlocal older
            if not older or older is NO_QUERIES:
                return
            self.dq_here[dq_stage.stage].arrive()
            if older.ends:
                self.k_free[k].arrive()
            older = None
            dq_stage.advance()

        def finish_dq():
            nonlocal older, newer
            for _ in range(2):
                yield from make_dq(keys.stage ^ 1)
                yield from put_dq(keys.stage ^ 1)
                publish_dq(keys.stage ^ 1)
                older, newer = newer, None
                stage.advance()

        while True:
            yield from keys.filled(self.k_here)
            piece = self.mail[keys.stage]
            if not piece:
                break
            if self.staged:
                yield from self.dkv_here.wait(v_parity)
                assert self.dkv is piece, "dk and dv overwritten"
                self.dkv_free.arrive()
            yield from self.unit.take(group)
            tiles = piece.tiles if len(piece.tiles) > 1 else [*piece.tiles, NO_QUERIES]
            for i in range(len(tiles)):
                older_k = keys.stage ^ (i < 2)
                yield from stage.filled(self.q_here)
                tile = self.q[stage.stage]
                assert tile is tiles[i] and self.k[keys.stage] is piece, "q or k overwritten"
                yield from make_dq(older_k)
                self.unit.give(group)
                if i > 0:
                    self.q_free[stage.before().stage].arrive()
                if self.rng.random() < 0.3:
                    yield
                yield from put_dq(older_k)
                if i == 0:
                    yield from self.v_here.wait(v_parity)
                yield from stage.filled(self.dout_here)
                yield from self.unit.take(group)
                assert self.dout[stage.stage] is tile and self.v is piece, "dout or v overwritten"
                self.unit.give(group)
                publish_dq(older_k)
                if self.rng.random() < 0.3:
                    yield
                if i == len(tiles) - 1:
                    self.v_free.arrive()
                self.dout_free[stage.stage].arrive()
                yield from stage.free(self.ds_free)
                self.ds[stage.stage][group] = tile
                yield from self.unit.take(group)
                self.ds_here[stage.stage].arrive()
                older, newer = newer, tile
                stage.advance()
            self.unit.give(group)
            self.q_free[stage.before().stage].arrive()
            yield from put_gradient(self, piece, GROUPS)
            assert self.mail[keys.stage] is piece, "piece overwritten"
            self.stored[keys.stage].arrive()
            v_parity ^= 1
            keys.advance()
        yield from finish_dq()


def run(seed):
    pieces, turns = run_blocks(seed, lambda *block: Block(*block, staged=seed % 2))
    assert turns == visits(pieces, GROUPS), "a tile was left out"


try_cases("backward", run)
