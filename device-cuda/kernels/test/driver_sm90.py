"""The kernels for compute capability 9.0 as Python functions; the same classes as driver.py's, which
do what these kernels do not: f32, softcap, scales that are not positive, views that are not aligned.

The argument blocks repeat the heads of the kernels.
"""

import ctypes
import struct

import torch

import driver
from driver import CUDA, NAMES, SMS, aligned, launch, ok, tile_list, view
from lists_sm90 import lists, share_out

DIMS = (64, 96, 128, 192, 256)
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
                                      + 8 * barriers + 2 * (128 + 4))

    def cuts(self, group, kv_heads):
        return None if self.hopper else super().cuts(group, kv_heads)  # the other kernels take few calls then


def on_device(numbers):
    return torch.tensor(list(numbers) or [0], dtype=torch.int32, device="cuda")


class Schedule(driver.Schedule):
    def __init__(self, documents, heads, kv_heads, causal, window, shape, zeroed_rows=0):
        super().__init__(documents, heads, kv_heads, causal, window, shape)
        if shape.hopper:
            queries, keys, stats, self.numbers, self.counters90 = lists(
                documents, self.group, kv_heads, causal, window, shape, zeroed_rows, SMS)
            self.queries90, self.query_count90 = tile_list(queries)
            costs = [3 * -(-t[0] // shape.kv_keys) + 2 for t in queries]
            self.blocks90 = min(SMS, self.query_count90 * kv_heads)
            self.shares = on_device(share_out(costs, kv_heads, self.blocks90))
            self.keys90, self.key_count90 = on_device(x for tile in keys for x in tile), len(keys)
            self.stats90, self.stats_count90 = tile_list(stats)


class Scratch(driver.Scratch):
    def __init__(self, schedule, rows, heads, kv_heads):
        super().__init__(schedule, rows, heads, kv_heads)
        if schedule.shape.hopper:
            n, shape = schedule.numbers * kv_heads, schedule.shape
            self.stats90 = torch.full((max(n, 1), 2 * shape.b_rows), float("nan"), device="cuda")
            self.turns90 = torch.full((1 + schedule.counters90 * kv_heads,), -1, dtype=torch.int32, device="cuda")
            self.dq_sum90 = torch.full((max(n, 1) * shape.b_rows * panels(shape.dim) // 4, 256), float("nan"),
                                       device="cuda")


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

    def block(self, tiles, count, scratch=None, **gradients):
        s = self.schedule
        lse = self.lse.t().unsqueeze(2)
        g = [gradients.get(name) for name in ("dout", "dq", "dk", "dv")]
        return (b"".join(map(view, (self.q, self.k, self.v, self.out, *g, lse)))
                + struct.pack("<QQQQiiiiiiiiiffi",
                              scratch.stats90.data_ptr() if scratch else 0,
                              scratch.dq_sum90.data_ptr() if scratch else 0,
                              scratch.turns90.data_ptr() if scratch else 0,
                              tiles.data_ptr(), count,
                              scratch.turns90.numel() if scratch else 0, self.q.shape[0], s.group,
                              self.k.shape[1], self.q.shape[2], int(s.causal), s.window, 1,
                              self.scale, self.softcap, s.shape.b_rows))

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
