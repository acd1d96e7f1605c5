"""PyTorch's ways on the CPU, asked by compare.py a line of JSON at a time, as the Rust rivals are.

Ways:
- loop: an SDPA call for each document (and step), with autograd.
- loop_repeat: the same with K/V heads repeated for each call in place of enable_gqa.
- dense_mask: one SDPA call for each step, over its whole window, under a block-diagonal mask.
- padded: one SDPA call for each step, over its documents padded to the longest.

Favours: leaves and masks are made beforehand and not timed; so is the padding itself. Adding up the
gradients of K and V over several steps is timed, since nobody can do without.
"""

import time

import numpy
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from serve import serve

WAYS = ["loop", "loop_repeat", "dense_mask", "padded"]
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Operands:
    """q, k, v, dout as [heads, tokens, head_dim] views of [tokens, heads, head_dim] memory."""

    def __init__(self, request):
        heads, kv_heads, head_dim = (request[key] for key in ("heads", "kv_heads", "head_dim"))
        numbers = torch.from_numpy(numpy.fromfile(request["operands"], dtype="<f4"))
        tokens = numbers.numel() // (2 * head_dim * (heads + kv_heads))
        counts = [heads, kv_heads, kv_heads, heads]
        parts = numbers.split([tokens * count * head_dim for count in counts])
        views = [
            part.to(TYPES[request["type"]]).view(tokens, count, head_dim).transpose(0, 1)
            for part, count in zip(parts, counts)
        ]
        self.q, self.k, self.v, self.dout = views


class Piece:
    """One SDPA call: its leaves, its mask, and where its rows lie in the sequence."""

    def __init__(self, operands, q_rows, k_rows, mask, gqa):
        self.q_rows, self.k_rows, self.gqa = q_rows, k_rows, gqa
        self.q = leaf(operands.q[:, q_rows[0] : q_rows[1]])
        self.k = leaf(operands.k[:, k_rows[0] : k_rows[1]])
        self.v = leaf(operands.v[:, k_rows[0] : k_rows[1]])
        self.dout = operands.dout[:, q_rows[0] : q_rows[1]].unsqueeze(0)
        self.mask = mask
        self.group = operands.q.shape[0] // operands.k.shape[0]

    def forward(self):
        k, v, gqa = self.k, self.v, self.gqa and self.group > 1
        if self.group > 1 and not gqa:
            k, v = k.repeat_interleave(self.group, 1), v.repeat_interleave(self.group, 1)
        self.out = sdpa(self.q, k, v, attn_mask=self.mask, is_causal=self.mask is None, enable_gqa=gqa)
        return self.out

    def leaves(self):
        return [self.q, self.k, self.v]

    def scatter(self, results, gradients):
        put(results["out"], self.q_rows, self.out)
        for name, rows, gradient in zip(
            ("dq", "dk", "dv"), (self.q_rows, self.k_rows, self.k_rows), gradients
        ):
            put(results[name], rows, gradient)


class Padded(Piece):
    """All documents of a step in one call, each padded to the longest."""

    def __init__(self, operands, calls):
        self.calls = calls
        q_len = max(end - begin for begin, end, _, _ in calls)
        k_len = max(end - begin for _, _, begin, end in calls)
        q_rows, k_rows = [call[:2] for call in calls], [call[2:] for call in calls]
        self.q = pad(operands.q, q_rows, q_len).requires_grad_()
        self.k = pad(operands.k, k_rows, k_len).requires_grad_()
        self.v = pad(operands.v, k_rows, k_len).requires_grad_()
        self.dout = pad(operands.dout, q_rows, q_len)
        self.group, self.gqa = operands.q.shape[0] // operands.k.shape[0], True
        # Padding lies behind: the plain causal mask hides it where queries and keys begin together.
        same = all(call[:2] == call[2:] for call in calls)
        self.mask = (
            None if same else torch.stack([padded_mask(call, q_len, k_len) for call in calls]).unsqueeze(1)
        )

    def scatter(self, results, gradients):
        for n, (q_begin, q_end, k_begin, k_end) in enumerate(self.calls):
            put(results["out"], (q_begin, q_end), self.out[n : n + 1, :, : q_end - q_begin])
            for name, rows, gradient in zip(
                ("dq", "dk", "dv"), ((q_begin, q_end), (k_begin, k_end), (k_begin, k_end)), gradients
            ):
                put(results[name], rows, gradient[n : n + 1, :, : rows[1] - rows[0]])


def leaf(rows):
    return rows.detach().unsqueeze(0).requires_grad_()


def put(whole, rows, part):
    whole[rows[0] : rows[1]] += part.detach()[0].transpose(0, 1).float()


def pad(tensor, ranges, length):
    """[documents, heads, length, head_dim], laid out in memory as [documents, length, heads, head_dim]."""
    heads, _, head_dim = tensor.shape
    padded = torch.zeros(len(ranges), length, heads, head_dim, dtype=tensor.dtype).transpose(1, 2)
    for n, (begin, end) in enumerate(ranges):
        padded[n, :, : end - begin] = tensor[:, begin:end]
    return padded


def causal(call):
    """None for the plain causal mask; else the one that is aligned at the end of queries and keys."""
    q_len, k_len = call[1] - call[0], call[3] - call[2]
    return None if q_len == k_len else torch.ones(q_len, k_len, dtype=torch.bool).tril(k_len - q_len)


def padded_mask(call, q_len, k_len):
    """Padded queries see the first key, so that no row is empty; nobody looks at their results."""
    rows, columns = call[1] - call[0], call[3] - call[2]
    mask = torch.zeros(q_len, k_len, dtype=torch.bool)
    mask[:, 0] = True
    mask[:rows, :columns] = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
    return mask


def block_diagonal(calls):
    """The mask of a step over its window."""
    q_first, k_first = calls[0][0], calls[0][2]
    mask = torch.zeros(calls[-1][1] - q_first, calls[-1][3] - k_first, dtype=torch.bool)
    for call in calls:
        q_begin, q_end, k_begin, k_end = call
        rows, columns = q_end - q_begin, k_end - k_begin
        block = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        mask[q_begin - q_first : q_end - q_first, k_begin - k_first : k_end - k_first] = block
    return mask


def pieces(way, operands, calls):
    """What a step calls SDPA with."""
    if way in ("loop", "loop_repeat"):
        return [Piece(operands, call[:2], call[2:], causal(call), way == "loop") for call in calls]
    if way == "dense_mask":
        q_rows, k_rows = (calls[0][0], calls[-1][1]), (calls[0][2], calls[-1][3])
        return [Piece(operands, q_rows, k_rows, block_diagonal(calls), True)]
    return [Padded(operands, calls)]


def clock():
    return time.perf_counter() * 1e3


def run_packing(way, operands, packing, results):
    """Milliseconds forward and backward. Steps run in order, then in reverse."""
    steps = [pieces(way, operands, calls) for calls in packing["steps"]]
    begin = clock()
    for step in steps:
        for piece in step:
            piece.forward()
    forward = clock() - begin
    # With one step, what autograd returns is the gradient. With more, K and V of earlier steps get
    # several, which are added up in f32.
    stores = None
    if len(steps) > 1:
        stores = [torch.zeros(x.shape[1], x.shape[0], x.shape[2]) for x in (operands.k, operands.v)]
    gradients = []
    begin = clock()
    for step in reversed(steps):
        for piece in reversed(step):
            given = torch.autograd.grad(piece.out, piece.leaves(), piece.dout)
            if stores and type(piece) is Piece:
                put(stores[0], piece.k_rows, given[1])
                put(stores[1], piece.k_rows, given[2])
            gradients.append((piece, given))
    backward = clock() - begin
    if results is not None:
        for piece, given in gradients:
            piece.scatter(results, given)
    return forward, backward


def write(path, results):
    with open(path, "wb") as file:
        for name in ("out", "dq", "dk", "dv"):
            file.write(results[name].numpy().astype("<f4").tobytes())


def answer(request):
    if request["way"] not in WAYS:
        raise ValueError(f"no way {request['way']}")
    operands = Operands(request)
    times = {"forward_ms": [], "backward_ms": []}
    for packing in request["packings"]:
        results = None
        if request.get("results"):
            like = {"out": operands.q, "dq": operands.q, "dk": operands.k, "dv": operands.v}
            results = {name: torch.zeros(x.shape[1], x.shape[0], x.shape[2]) for name, x in like.items()}
        forward, backward = run_packing(request["way"], operands, packing, results)
        times["forward_ms"].append(forward)
        times["backward_ms"].append(backward)
        if results:
            write(request["results"], results)
    return times


def main():
    serve({"name": "torch", "version": torch.__version__, "threads": torch.get_num_threads(), "ways": WAYS}, answer)


if __name__ == "__main__":
    main()
