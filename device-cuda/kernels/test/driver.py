"""The kernels as Python functions over torch tensors, for checks and timings without the crate.

Loads the kept PTX through the CUDA driver and launches on torch's current stream. The argument
block and the tile lists repeat kernels/args.cuh and src/schedule/.
"""

import ctypes
import functools
import math
import os
import pathlib
import struct

import torch

from lists_sm80 import lists, walk_cuts

KERNELS = os.environ.get("MICROSEQ_CUDA_KERNELS", "wgmma")  # as the crate has it
assert KERNELS in ("wgmma", "mma", "mma_small"), KERNELS
PTX = pathlib.Path(os.environ.get("MICROSEQ_PTX", pathlib.Path(__file__).resolve().parents[2] / "ptx"))
CUDA = ctypes.CDLL("libcuda.so.1")
SMS = torch.cuda.get_device_properties(0).multi_processor_count
NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def ok(code):
    if code:
        text = ctypes.c_char_p()
        CUDA.cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"CUDA error {code}: {text.value.decode() if text.value else '?'}")


@functools.cache
def little_shared():
    """Whether a block may not have the shared memory that large tiles take."""
    bytes_ = ctypes.c_int()
    ok(CUDA.cuDeviceGetAttribute(ctypes.byref(bytes_), 97, torch.cuda.current_device()))
    return bytes_.value < 163 * 1024


@functools.cache
def kernel(module, entry, shared=0):
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    handle, function = ctypes.c_void_p(), ctypes.c_void_p()
    ok(CUDA.cuModuleLoadData(ctypes.byref(handle), (PTX / f"{module}.ptx").read_bytes() + b"\0"))
    ok(CUDA.cuModuleGetFunction(ctypes.byref(function), handle, entry.encode()))
    if shared > 48 * 1024:
        ok(CUDA.cuFuncSetAttribute(function, 8, shared))
    return function


def launch(module, entry, blocks, threads, args, shared=0):
    if blocks == 0:
        return
    block = ctypes.create_string_buffer(args, len(args))
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    # The kernels for 9.0 wait by themselves for those before them.
    config = Config(blocks, 1, 1, threads, 1, 1, shared, torch.cuda.current_stream().cuda_stream,
                    ctypes.pointer(BEGINS_EARLY), int("wgmma" in module))
    ok(CUDA.cuLaunchKernelEx(ctypes.byref(config), kernel(module, entry, shared), pointers, None))


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint), ("padding", ctypes.c_uint), ("value", ctypes.c_int * 16)]


class Config(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_uint) for name in ("x", "y", "z", "threads", "threads_y", "threads_z", "shared")),
                ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(Attribute)), ("count", ctypes.c_uint)]


BEGINS_EARLY = Attribute(6, 0, (ctypes.c_int * 16)(1))


class Shape:
    """Tile sizes and shared memory of a variant: kernels/shape.cuh."""

    def __init__(self, dtype, head_dim):
        self.name = NAMES[dtype]
        self.mma = dtype != torch.float32 and head_dim <= 256
        if not self.mma:
            self.head_dim = next(x for x in (128, 256, 512) if head_dim <= x) if dtype == torch.float32 else 512
            rows = self.forward_rows = self.rows = self.keys = 64 if self.head_dim <= 256 else 32
            self.forward_shared = (2 * (64 + 4) + rows + 4) * rows * 4
            self.shared = self.forward_shared + (rows + 4) * rows * 4
            return
        d = self.head_dim = next(x for x in (64, 128, 256) if head_dim <= x)
        self.forward_rows = 128 if d <= 128 else 64
        self.forward_shared = (self.forward_rows + 128) * d * 2
        small = KERNELS == "mma_small" or little_shared()
        self.backward = f"backward_mma_{'small_' if small else ''}{self.name}_{d}"
        self.rows, self.keys, stages, warps = {
            (64, False): (128, 128, 2, 8), (128, False): (64, 128, 2, 8), (256, False): (64, 64, 1, 8),
            (64, True): (64, 128, 2, 8), (128, True): (32, 128, 1, 8), (256, True): (32, 32, 1, 4)}[d, small]
        self.threads = 32 * warps
        self.shared = (4 * self.keys * d + 4 * self.rows * self.keys
                       + stages * (4 * self.rows * d + 8 * self.rows))

    def cuts(self, group, kv_heads):
        """Where walks are cut, or None."""
        return walk_cuts(group, kv_heads, self.rows) if self.mma else None


def tile_list(tiles):
    """Tiles as the kernels read them, longest first; equal ones stay in order."""
    tiles.sort(key=lambda t: -t[0])
    flat = [x for _, *t in tiles for x in t]
    return torch.tensor(flat or [0] * 6, dtype=torch.int32, device="cuda"), len(tiles)


class Schedule:
    """Tile lists of documents (query_row, queries, key_row, keys)."""

    def __init__(self, documents, heads, kv_heads, causal, window, shape, zeroed_rows=0):
        group = heads // kv_heads
        self.documents, self.group, self.shape = documents, group, shape
        self.causal, self.window = causal, window
        queries, walks, self.turns, self.counters = lists(
            documents, group, kv_heads, causal, window, shape, shape.cuts(group, kv_heads), SMS)
        self.queries, self.query_count = tile_list(queries)
        words = [x for walk in walks for x in (walk if shape.mma else walk[:6])]
        self.keys, self.key_count = torch.tensor(words or [0] * 10, dtype=torch.int32, device="cuda"), len(walks)


class Scratch:
    def __init__(self, schedule, rows, heads, kv_heads):
        shape = schedule.shape
        self.stats = torch.full((heads, rows, 2), math.nan, device="cuda")
        self.turns = torch.full((1 + schedule.counters * kv_heads,), -1, dtype=torch.int32,
                                device="cuda")
        wide = shape.rows * shape.head_dim if shape.mma else 0
        self.dq_sum = torch.full((max(1, schedule.turns * kv_heads * wide),), math.nan,
                                 device="cuda")


def view(t):
    if t is None:
        return struct.pack("<Qqq", 0, 0, 0)
    assert t.stride(2) == 1 or t.shape[2] == 1
    return struct.pack("<Qqq", t.data_ptr(), t.stride(0), t.stride(1))


def aligned(*tensors):
    return all(t.data_ptr() % 16 == 0 and t.stride(0) * t.element_size() % 16 == 0
               and t.stride(1) * t.element_size() % 16 == 0 for t in tensors)


class Call:
    """One attention call: tensors are [rows, heads, head_dim] views, lse is [heads, rows]."""

    def __init__(self, schedule, q, k, v, out, lse, scale=None, softcap=0.0):
        self.schedule, self.q, self.k, self.v, self.out, self.lse = schedule, q, k, v, out, lse
        self.scale = q.shape[2] ** -0.5 if scale is None else scale
        self.softcap = softcap

    def args(self, tiles, count, scratch=None, dout=None, dq=None, dk=None, dv=None):
        s = self.schedule
        even = aligned(*[t for t in (self.q, self.k, self.v, self.out, dout, dq) if t is not None])
        lse = self.lse.t().unsqueeze(2)
        views = (self.q, self.k, self.v, self.out, dout, dq, dk, dv, lse)
        return (b"".join(map(view, views))
                + struct.pack("<QQQQiiiiiiiiiffi",
                              scratch.stats.data_ptr() if scratch else 0,
                              scratch.dq_sum.data_ptr() if scratch else 0,
                              scratch.turns.data_ptr() if scratch else 0, tiles.data_ptr(), count,
                              scratch.turns.numel() if scratch else 0, self.q.shape[0], s.group,
                              self.k.shape[1], self.q.shape[2], int(s.causal), s.window, int(even),
                              self.scale, self.softcap, s.shape.forward_rows))

    def forward(self):
        s, shape = self.schedule, self.schedule.shape
        args = self.args(s.queries, s.query_count)
        blocks = s.query_count * self.k.shape[1]
        if shape.mma:
            launch(f"forward_mma_{shape.name}_{shape.head_dim}", "forward", blocks, 128, args,
                   shape.forward_shared)
        else:
            launch(f"forward_fma_{shape.name}_{shape.head_dim}", "forward", blocks, 256, args, shape.forward_shared)

    def backward(self, scratch, dout, dq, dk, dv):
        s, shape = self.schedule, self.schedule.shape
        kv_heads = self.k.shape[1]
        gradients = (scratch, dout, dq, dk, dv)
        rows = self.args(s.queries, s.query_count, *gradients)
        keys = self.args(s.keys, s.key_count, *gradients)
        launch(f"prepare_{shape.name}", "prepare", s.query_count * kv_heads, 256, rows)
        if shape.mma:
            launch(shape.backward, "backward", s.key_count * kv_heads, shape.threads, keys, shape.shared)
        else:
            launch(f"backward_dq_fma_{shape.name}_{shape.head_dim}", "backward_dq", s.query_count * kv_heads, 256,
                   rows, shape.forward_shared)
            launch(f"backward_dkv_fma_{shape.name}_{shape.head_dim}", "backward_dkv", s.key_count * kv_heads, 256,
                   keys, shape.shared)
