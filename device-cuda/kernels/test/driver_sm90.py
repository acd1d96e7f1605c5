"""The kernels for compute capability 9.0 as Python functions; the same classes as driver.py's, which
do what these kernels do not: f32, softcap, scales that are not positive, views that are not aligned.

The argument blocks and the tile lists repeat the heads of the kernels and src/schedule/.
"""

import ctypes
import heapq
import itertools
import struct

import torch

import driver
from driver import CUDA, NAMES, NO_WINDOW, aligned, launch, ok, step_documents, tile_list, view, visible

DIMS = (64, 96, 128, 192, 256)
SMS = torch.cuda.get_device_properties(0).multi_processor_count
MANY_HEADS = 8  # with fewer K/V heads walks are cut
PIECES_APART = 16  # so many for a block do not wait for each other
CACHE = 48 << 20
TYPES = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}


def panels(columns):
    return -(-columns // 64)


def up(x, to):
    return -(-x // to) * to


class Shape(driver.Shape):
    def __init__(self, dtype, head_dim):
        super().__init__(dtype, head_dim)
        self.hopper = dtype != torch.float32 and head_dim % 8 == 0 and head_dim <= DIMS[-1]
        if not self.hopper:
            return
        d = self.dim = next(x for x in DIMS if head_dim <= x)
        self.q_rows, self.kv_keys = 192 if d <= 64 else 128, 128 if d <= 128 else 96 if d <= 192 else 64
        q_stages = 2 if d <= 128 else 1
        self.forward_shared_sm90 = (q_stages * panels(d) * self.q_rows * 128
                                    + 4 * panels(d) * self.kv_keys * 128 + 8 * (2 * q_stages + 9))
        own_keys = d <= 128
        self.b_rows, self.b_keys = 64, 128 if own_keys else 64
        k_stages, dout_stages, rounds = 2 if own_keys else 1, 2 if d <= 192 else 1, 1 if own_keys else 2
        query_tile, key_tile = panels(d) * self.b_rows * 128, panels(d) * self.b_keys * 128
        scores = self.b_keys * self.b_rows
        dq_room, p_tile = (2 * query_tile, 0) if own_keys else (self.b_rows * 128 * 4, 4 * scores)
        dkv_staged = d <= 64
        dkv_room = 2 * self.b_keys * d * 4 if dkv_staged else 0
        barriers = (3 if own_keys else 5) + 8 * 2 + 2 * dout_stages + 3 * 3 * rounds + (2 if dkv_staged else 0)
        self.backward_shared_sm90 = ((k_stages + 1) * key_tile + (2 + dout_stages) * query_tile
                                      + 2 * (2 * scores + 8 * self.b_rows) + dq_room + p_tile + dkv_room
                                      + 8 * barriers + 2 * (136 + 4))


def part_of(kv_heads, window):
    """Query tiles that add up their dk and dv before these are added to the store, where that is so."""
    return min(16 * (kv_heads + 1), 64) if kv_heads < MANY_HEADS or window != NO_WINDOW else None


def key_tiles(document, tokens, causal, window, keys, number, from_zero):
    """A document's KeyTiles, ascending; `number` is its first query tile's."""
    query_row, q, key_row, k = document
    offset = k - q
    first_tile, last_tile = offset // tokens, (k - 1) // tokens
    # The first tile whose first query is at `position` or behind it.
    tile_from = lambda position: first_tile if offset >= position else -(-min(position, k) // tokens)
    low, high = visible(offset, k, causal, window)[0], visible(k - 1, k, causal, window)[1]
    tiles = []
    for key in range(low // keys * keys, max(high, 0), keys):
        begin = max(first_tile, key // tokens) if causal else first_tile
        end = min(last_tile, (key + keys - 1 + window - 1) // tokens) + 1
        first = (first_tile if key < keys else tile_from(key + window - 1)), tile_from(key + keys + window - 1)
        last_end = 2**31 - 1 if key + keys >= k else (key + keys) // tokens if causal else first_tile
        whole, seen = [], []
        for a in range(key, key + keys, keys // 2):
            b = a + keys // 2
            seen.append((max(first_tile, a // tokens) if causal else first_tile) if a < k else end)
            if b > k:
                whole.append((0, 0))
                continue
            whole.append((max(first_tile, -(-(b - 1) // tokens)) if causal else first_tile,
                          min(last_tile + 1, (a + window) // tokens) if a + window - 1 < k else last_tile + 1))
        tiles.append((end - begin, key_row + key, k - key, key, query_row - offset, query_row, query_row + q,
                      begin, end, *first, last_end, *(w[0] for w in whole), *(w[1] for w in whole),
                      *seen, int(from_zero), number - first_tile))
    return tiles


class Cut:
    """How walks are cut into parts of `part` query tiles, and in which order these are begun. `apart`: they do not wait
    for each other, and their sums are added to the store later, by `add_parts`."""

    def __init__(self, kv_heads, window, shape):
        self.part, self.apart, self.few = part_of(kv_heads, window), False, kv_heads < MANY_HEADS
        self.band = max(1, CACHE // (shape.b_rows * shape.dim * 8 * kv_heads) // (self.part or 1))

    def bounds(self, begin, end):
        inner = range((begin // self.part + 1) * self.part, end, self.part) if self.part else ()
        return [begin, *inner, end]

    def order(self, walk, begin):
        """Of pieces; of equal ones the last query tiles come first."""
        if not self.part:
            return (walk,)
        part = begin // self.part
        if not self.few:
            return -part, walk
        return -(part // self.band), walk if self.apart else walk - part


def pieces_of(tiles, cut, walks, parts):
    """A document's pieces, and what `add_parts` shall add. Counters of walks begin at `walks`, numbers of parts at
    `parts`."""
    pieces, sums = [], []
    for i, tile in enumerate(tiles):
        bounds = cut.bounds(tile[7], tile[8])
        count = len(bounds) - 1  # of parts, of which the first begins with the last tiles
        left = count - 1 if cut.apart else 0
        if left:
            sums.append((tile[1], tile[2], parts, left))
        for at, (a, b) in enumerate(zip(bounds, bounds[1:])):
            *masks, from_zero, number = tile[9:]
            masks[-2:] = [min(max(t, a), b) for t in masks[-2:]]  # from where halves are seen
            before = count - 1 - at
            turn = (before, count - left - 1 - before, 1, -1) if at >= left else (0, 0, 0, parts + left - 1 - at)
            if not cut.part:
                turn = 0, 0, 0, -1
            more = *masks, int(from_zero or bool(cut.part)), number, walks + i, *turn
            pieces.append((cut.order(i, a), -a, (b - a, *tile[1:7], a, b, *more)))
        parts += left
    pieces = [p[2] for p in sorted(pieces)]
    # A piece weighs at least as much as those behind it: sorting by weight keeps them behind it.
    for i in reversed(range(len(pieces) - 1)):
        pieces[i] = (max(pieces[i][0], pieces[i + 1][0]), *pieces[i][1:])
    return pieces, sums


def lists(documents, group, kv_heads, causal, window, shape, zeroed_rows):
    """Query tiles, key tiles by document, stats tiles; how many query tiles there are. The first `zeroed_rows` of
    the gradient store hold zeros."""
    queries, keys, stats, number = [], [], [], 0
    tokens_f, tokens = shape.q_rows // group, shape.b_rows // group
    for query_row, q, key_row, k in documents:
        for begin in range(0, q, tokens_f):
            last = min(begin + tokens_f, q) - 1
            low = visible(begin + k - q, k, causal, window)[0]
            high = visible(last + k - q, k, causal, window)[1]
            queries.append((max(high - low, 0), query_row, q, key_row, k, begin * group, 0))
        if q == 0:
            continue
        first, last = (k - q) // tokens, (k - 1) // tokens
        for t in range(first, last + 1):
            stats.append((0, query_row, q, key_row, k, t, number + t - first))
        keys.append(key_tiles((query_row, q, key_row, k), tokens, causal, window, shape.b_keys, number,
                              key_row + k <= zeroed_rows))
        number += last - first + 1
    cut = Cut(kv_heads, window, shape)
    count = sum(len(cut.bounds(tile[7], tile[8])) - 1 for tiles in keys for tile in tiles)
    cut.apart = cut.few and count * kv_heads <= PIECES_APART * SMS
    counters, sums = number, []
    for i, tiles in enumerate(keys):
        keys[i], more = pieces_of(tiles, cut, counters, sum(s[3] for s in sums))
        sums += more
        counters += len(tiles)
    return queries, keys, stats, sums, number, counters


def key_list(documents, kv_heads):
    """A document's tiles together, so that its dq sums stay in the L2 cache; what every multiprocessor
    does last, longest first."""
    documents.sort(key=lambda mine: -sum(m[0] for m in mine))
    tiles = [m for mine in documents for m in mine]
    tail = max(0, len(tiles) - -(-2 * SMS // kv_heads))
    tiles[tail:] = sorted(tiles[tail:], key=lambda m: -m[0])
    flat = [x for _, *t in tiles for x in t]
    return torch.tensor(flat or [0] * 24, dtype=torch.int32, device="cuda"), len(tiles)


def share_out(costs, heads, blocks):
    """Pieces, tiles times heads, each to the block that has least to do: begins of each block's, and the pieces."""
    least, shares = [(0, block) for block in range(blocks)], [[] for _ in range(blocks)]
    for piece in range(len(costs) * heads):
        busy, block = least[0]
        shares[block].append(piece)
        heapq.heapreplace(least, (busy + costs[piece // heads], block))
    begins = itertools.accumulate(map(len, shares), initial=0)
    return torch.tensor([*begins, *itertools.chain(*shares)], dtype=torch.int32, device="cuda")


class Schedule(driver.Schedule):
    def __init__(self, documents, heads, kv_heads, causal, window, shape, zeroed_rows=0):
        super().__init__(documents, heads, kv_heads, causal, window, shape)
        if shape.hopper:
            queries, keys, stats, sums, self.numbers, self.counters = lists(
                documents, self.group, kv_heads, causal, window, shape, zeroed_rows)
            self.queries90, self.query_count90 = tile_list(queries)
            costs = [3 * -(-t[0] // shape.kv_keys) + 2 for t in queries]
            self.blocks90 = min(SMS, self.query_count90 * kv_heads)
            self.shares = share_out(costs, kv_heads, self.blocks90)
            self.keys90, self.key_count90 = key_list(keys, kv_heads)
            self.stats90, self.stats_count90 = tile_list(stats)
            self.parts, self.sums_count = sum(s[3] for s in sums), len(sums)
            self.sums = torch.tensor([x for s in sums for x in s] or [0], dtype=torch.int32, device="cuda")


class Scratch(driver.Scratch):
    def __init__(self, schedule, rows, heads, kv_heads):
        super().__init__(schedule, rows, heads, kv_heads)
        if schedule.shape.hopper:
            n, shape = schedule.numbers * kv_heads, schedule.shape
            self.stats90 = torch.full((max(n, 1), 2 * shape.b_rows), float("nan"), device="cuda")
            self.turns90 = torch.full((1 + schedule.counters * kv_heads,), -1, dtype=torch.int32, device="cuda")
            self.dq_sum90 = torch.full((max(n, 1) * shape.b_rows * panels(shape.dim) // 4, 256), float("nan"),
                                       device="cuda")
            rows = max(schedule.parts, 1) * kv_heads * 2 * shape.b_keys
            self.parts = torch.full((rows, shape.dim), float("nan"), device="cuda")


def tensor_map(t, box, swizzle=True):
    """A map of a tensor whose last dimension is dense, dimensions reversed as the copy engine counts."""
    map_ = (ctypes.c_uint64 * 24)()
    base = (ctypes.addressof(map_) + 63) // 64 * 64
    rank = t.dim()
    sizes = (ctypes.c_uint64 * rank)(*reversed(t.shape))
    strides = (ctypes.c_uint64 * (rank - 1))(*[max(t.stride(i), 8) * t.element_size()
                                               for i in reversed(range(rank - 1))])
    ok(CUDA.cuTensorMapEncodeTiled(
        ctypes.c_void_p(base), TYPES[t.dtype], rank, ctypes.c_void_p(t.data_ptr()), sizes, strides,
        (ctypes.c_uint32 * rank)(*box), (ctypes.c_uint32 * rank)(*[1] * rank), 0, 3 if swizzle else 0, 3, 0))
    return ctypes.string_at(base, 128)


class Call(driver.Call):
    def hopper(self, *more):
        s = self.schedule
        return (s.shape.hopper and self.scale > 0 and not self.softcap and s.group <= 64
                and self.q.shape[0] and self.k.shape[0]
                and aligned(self.q, self.k, self.v, self.out, *more))

    def block(self, tiles, count, scratch=None, tile_rows=None, **gradients):
        s = self.schedule
        lse = self.lse.t().unsqueeze(2)
        g = [gradients.get(name) for name in ("dout", "dq", "dk", "dv")]
        return (b"".join(map(view, (self.q, self.k, self.v, self.out, *g, lse)))
                + struct.pack("<QQQQQiiiiiiiiiffi",
                              scratch.stats90.data_ptr() if scratch else 0,
                              scratch.dq_sum90.data_ptr() if scratch else 0,
                              scratch.turns90.data_ptr() if scratch else 0,
                              scratch.parts.data_ptr() if scratch else 0, tiles.data_ptr(), count,
                              scratch.turns90.numel() if scratch else 0, self.q.shape[0], s.group,
                              self.k.shape[1], self.q.shape[2], int(s.causal), s.window, 1,
                              self.scale, self.softcap, tile_rows or s.shape.b_rows))

    def maps(self, rows, keys, *more):
        group = self.schedule.group
        box = (64, group, rows // group)
        out = [tensor_map(self.q, box), tensor_map(self.k, (64, 1, keys)), tensor_map(self.v, (64, 1, keys))]
        return b"".join(out + [tensor_map(t, box) for t in more])

    def forward(self):
        if not self.hopper():
            return super().forward()
        s, shape = self.schedule, self.schedule.shape
        shares = struct.pack("<Q", s.shares.data_ptr())
        args = (self.block(s.queries90, s.query_count90) + shares).ljust(320, b"\0")
        args += self.maps(shape.q_rows, shape.kv_keys)
        launch(f"forward_wgmma_{shape.name}_{shape.dim}", "forward", s.blocks90, shape.q_rows * 2 + 128, args,
               shape.forward_shared_sm90)

    def backward(self, scratch, dout, dq, dk, dv):
        if not self.hopper(dout, dq, dk, dv):
            return super().backward(scratch, dout, dq, dk, dv)
        s, shape = self.schedule, self.schedule.shape
        kv_heads = self.k.shape[1]
        gradients = dict(dout=dout, dq=dq, dk=dk, dv=dv)
        launch(f"prepare_wgmma_{shape.name}", "prepare", s.stats_count90 * kv_heads * shape.b_rows // 32, 128,
               self.block(s.stats90, s.stats_count90, scratch, **gradients))
        args = (self.block(s.keys90, s.key_count90, scratch, **gradients).ljust(320, b"\0")
                + self.maps(shape.b_rows, shape.b_keys, dout)
                + tensor_map(scratch.stats90, (2 * shape.b_rows, 1), False)
                + b"".join(tensor_map(t, (min(shape.dim, 64), 1, shape.b_keys), False) for t in (dk, dv)))
        blocks = min(SMS, s.key_count90 * kv_heads)
        launch(f"backward_wgmma_{shape.name}_{shape.dim}", "backward", blocks, 384, args,
               shape.backward_shared_sm90)
        launch("add_parts_wgmma_f32", "add_parts", s.sums_count * kv_heads * shape.b_keys // 16, 256,
               self.block(s.sums, s.sums_count, scratch, shape.b_keys, **gradients))
