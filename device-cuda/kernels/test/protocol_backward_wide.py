"""The barriers of backward_wgmma where its warpgroups share keys (share_keys.cuh), as protocol_backward.py.

    python3 protocol_backward_wide.py [CASES]

What a product or a copy reads must be there when it is issued and still when it is waited for. Every part of
a tile's dq must be added once, by the key tiles in turn. The warps of a warpgroup wait for each other nowhere
but at the barriers.
"""

from barriers import Barrier, Stage, try_cases
from pieces import put_gradient, run_blocks, take_piece, visits

STAGES, ADDERS, GROUPS, ROUNDS = 2, 3, 2, 2
WARPS = 2  # of a warpgroup: what two must wait for, four must


def one_of(stage, count):
    """The stage among `count`, which is one or as many as `stage` has: `among` of stages.cuh."""
    if count == stage.count:
        return stage
    one = Stage(1)
    one.parity = stage.stage
    return one


class Block:
    """One block's shared memory and its roles. `turns` and `tickets` are global."""

    def __init__(self, pieces, tickets, turns, rng):
        self.pieces, self.tickets, self.turns, self.rng = pieces, tickets, turns, rng
        self.dout_stages = rng.choice([1, STAGES])
        all_warps = GROUPS * WARPS
        some = lambda count, arrivals: [Barrier(arrivals) for _ in range(count)]
        self.k_here, self.k_free = some(STAGES, 1), some(STAGES, all_warps + 1 + ADDERS)
        self.q_here, self.q_free = some(STAGES, 1), some(STAGES, all_warps)
        self.dout_here, self.dout_free = some(self.dout_stages, 1), some(self.dout_stages, all_warps)
        self.ds_here, self.ds_free = some(STAGES, WARPS), some(STAGES, all_warps)
        rooms = ADDERS * ROUNDS
        self.sum_here, self.dq_here, self.dq_free = some(rooms, 1), some(rooms, all_warps), some(rooms, 1)
        self.v_here, self.v_free, self.k_read = Barrier(1), Barrier(WARPS), Barrier(all_warps)
        self.p_here = some(1, WARPS)
        self.stored = some(STAGES, all_warps)
        self.mail, self.k, self.v, self.p = [None] * STAGES, None, None, [None] * WARPS
        self.q, self.dout = [None] * STAGES, [None] * self.dout_stages
        self.ds = [[None] * WARPS for _ in range(STAGES)]
        self.dq = [None] * all_warps

    def roles(self):
        computers = [self.computer(group, warp) for group in range(GROUPS) for warp in range(WARPS)]
        return [self.loader(), *map(self.adder, range(ADDERS)), *computers]

    def some_time(self):
        for _ in range(self.rng.choice([0, 0, 1, 3])):
            yield

    def loader(self):
        keys, stage, walk, parity = Stage(STAGES), Stage(STAGES), Stage(STAGES), 0

        def next_piece():
            at = yield from take_piece(self, keys)
            if not self.mail[at]:
                self.k_here[at].arrive()

        def bring_queries(tile):
            dout = one_of(stage, self.dout_stages)
            whole = self.rng.random() < 0.8  # else rows are set to zero when both are here
            yield from stage.free(self.q_free)
            self.q[stage.stage] = tile
            if whole:
                self.q_here[stage.stage].arrive()
            yield from dout.free(self.dout_free)
            self.dout[dout.stage] = tile
            if not whole:
                yield from self.some_time()
                self.q_here[stage.stage].arrive()
            self.dout_here[dout.stage].arrive()
            stage.advance()

        yield from next_piece()
        while self.mail[walk.stage]:
            piece = self.mail[walk.stage]
            for i, tile in enumerate(piece.tiles):
                yield from bring_queries(tile)
                if i == 0:
                    yield from self.v_free.wait(parity ^ 1)
                    self.v = piece
                    self.v_here.arrive()
                    yield from self.k_read.wait(parity ^ 1)
                    self.k = piece
                    self.k_here[walk.stage].arrive()
                    parity ^= 1
                if i == len(piece.tiles) - 1:
                    yield from next_piece()
            self.k_free[walk.stage].arrive()
            walk.advance()

    def adder(self, mine):
        keys, stage = Stage(STAGES), Stage(ADDERS * ROUNDS)
        while True:
            yield from keys.filled(self.k_here)
            piece = self.mail[keys.stage]
            if not piece:
                return
            for tile in piece.tiles:
                serves = stage.stage == mine * ROUNDS
                if serves:
                    while self.turns.get(tile.name, 0) != tile.turn:
                        yield
                for half in range(ROUNDS):
                    if serves:
                        yield from (self.bring_sum if tile.last else self.add)(tile, half, stage)
                    stage.advance()
                if serves:
                    assert self.mail[keys.stage] is piece, "piece overwritten"
                    yield from self.some_time()
                    assert self.turns.get(tile.name, 0) == tile.turn, "out of turn"
                    self.turns[tile.name] = tile.turn + 1
            if mine == 0:
                yield from keys.filled(self.stored)
                if piece.after:
                    self.turns[piece.walk] = piece.before + 1
            self.k_free[keys.stage].arrive()
            keys.advance()

    def add(self, tile, half, stage):
        yield from stage.filled(self.dq_here)
        for _ in range(2):
            assert self.dq == [(tile, half)] * len(self.dq), "dq overwritten"
            yield from self.some_time()
        self.sum_here[stage.stage].arrive()
        self.dq_free[stage.stage].arrive()

    def bring_sum(self, tile, half, stage):
        if tile.turn:
            yield from stage.before().filled(self.dq_free)
            yield from self.some_time()
            self.dq = [(tile, half, "sum")] * len(self.dq)
        self.sum_here[stage.stage].arrive()
        yield from stage.filled(self.dq_here)
        self.dq_free[stage.stage].arrive()

    def computer(self, group, warp):
        """A warp; warpgroup 0 makes s, p, dv, warpgroup 1 dp, ds, dk; both dq."""
        mine = group * WARPS + warp  # of dq
        keys, stage, room = Stage(STAGES), Stage(STAGES), Stage(ADDERS * ROUNDS)
        v_parity = 0
        on_its_way = []  # what products read, oldest first

        def issue(*reads):
            on_its_way.append(reads)
            for read, what in reads:
                assert read() is what, "an operand is not here"

        def wait(pending):
            while len(on_its_way) > pending:
                reads = on_its_way.pop(0)
                yield from self.some_time()
                for read, what in reads:
                    assert read() is what, "an operand was overwritten"

        def issue_dq(tile, at, piece):
            if tile:
                issue(*((lambda w=w: self.ds[at][w], tile) for w in range(WARPS)), (lambda: self.k, piece))
            else:
                issue()

        def put(tile, half, piece):
            yield from room.before().filled(self.dq_free)
            if tile.last:
                yield from room.filled(self.sum_here)
                assert not tile.turn or self.dq[mine] == (tile, half, "sum"), "sum overwritten"
                assert self.turns.get(tile.name, 0) == tile.turn, "added out of turn"
                assert self.mail[keys.stage] is piece, "piece overwritten"
            else:
                self.dq[mine] = (tile, half)
            yield from self.some_time()

        def publish():
            self.dq_here[room.stage].arrive()
            room.advance()

        def finish_scores(tile):
            one, dout = one_of(stage, 1), one_of(stage, self.dout_stages)
            if group == 0:
                yield from self.some_time()
                self.q_free[stage.stage].arrive()
                self.p[warp] = tile
                self.p_here[0].arrive()
                return
            self.dout_free[dout.stage].arrive()
            if tile.ends:
                self.v_free.arrive()
            yield from one.filled(self.p_here)
            for _ in range(2):
                assert self.p[warp] is tile and self.q[stage.stage] is tile, "p or stats overwritten"
                yield from self.some_time()
            yield from stage.free(self.ds_free)
            self.ds[stage.stage][warp] = tile

        while True:
            yield from keys.filled(self.k_here)
            piece = self.mail[keys.stage]
            if not piece:
                return
            for i, tile in enumerate(piece.tiles):
                at, dout_at = stage.stage, one_of(stage, self.dout_stages).stage
                before, made = stage.before(), piece.tiles[i - 1] if i > 0 else None
                dout = lambda at=dout_at: self.dout[at]
                yield from stage.filled(self.q_here)
                if group == 0:
                    issue((lambda at=at: self.q[at], tile), (lambda: self.k, piece))
                else:
                    if i == 0:
                        yield from self.v_here.wait(v_parity)
                        v_parity ^= 1
                    yield from one_of(stage, self.dout_stages).filled(self.dout_here)
                    issue((dout, tile), (lambda: self.v, piece))
                if made:
                    yield from before.filled(self.ds_here)
                issue_dq(made, before.stage, piece)
                yield from wait(1)
                yield from finish_scores(tile)
                yield from wait(0)
                if group == 0:
                    yield from one_of(stage, self.dout_stages).filled(self.dout_here)
                    issue((dout, tile))
                else:
                    issue((lambda at=at: self.q[at], tile))
                if made:
                    yield from put(made, 0, piece)
                issue_dq(made, before.stage, piece)
                if group == 1:
                    self.ds_here[stage.stage].arrive()
                if made:
                    publish()
                yield from wait(1)
                (self.dout_free[dout_at] if group == 0 else self.q_free[at]).arrive()
                yield from wait(0)
                if made:
                    self.ds_free[before.stage].arrive()
                    yield from put(made, 1, piece)
                    publish()
                stage.advance()
            before = stage.before()
            yield from before.filled(self.ds_here)
            issue_dq(tile, before.stage, piece)
            yield from wait(0)
            yield from put(tile, 0, piece)
            issue_dq(tile, before.stage, piece)
            publish()
            yield from wait(0)
            self.ds_free[before.stage].arrive()
            self.k_read.arrive()
            yield from put(tile, 1, piece)
            publish()
            yield from put_gradient(self, piece, GROUPS * WARPS)
            assert self.mail[keys.stage] is piece, "piece overwritten"
            self.stored[keys.stage].arrive()
            self.k_free[keys.stage].arrive()
            keys.advance()


def run(seed):
    pieces, turns = run_blocks(seed, Block)
    assert turns == visits(pieces, GROUPS * WARPS), "a tile was left out"


try_cases("backward of shared keys", run)
