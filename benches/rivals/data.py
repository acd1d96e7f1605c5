"""Packings, operands and the comparison of results."""

import numpy


def cut(workload, lengths):
    """Each step's calls: [q_begin, q_end, k_begin, k_end] of every document that touches it."""
    tokens, micro = sum(lengths), workload["micro_sequence_length"]
    steps = []
    for begin in range(0, tokens, micro):
        calls, document_begin = [], 0
        for length in lengths:
            document_end = document_begin + length
            first, last = max(begin, document_begin), min(begin + micro, tokens, document_end)
            if first < last:
                calls.append([first, last, document_begin, last])
            document_begin = document_end
        steps.append(calls)
    return {"lengths": lengths, "steps": steps}


def flops(workload, packing):
    pairs = sum(length * (length + 1) // 2 for length in packing["lengths"])
    return 4 * pairs * workload["head_dim"] * workload["heads"]


def redraw(lengths, generator):
    """As many documents with as many tokens, cut at random places."""
    cuts = sorted(generator.randint(0, sum(lengths)) for _ in lengths[1:])
    return [end - begin for begin, end in zip([0] + cuts, cuts + [sum(lengths)])]


def write_operands(path, workload):
    """The same bits for all: normal numbers in f32, that each rival rounds to the type."""
    heads, kv_heads = workload["heads"], workload["kv_heads"]
    size = sum(workload["lengths"]) * workload["head_dim"] * 2 * (heads + kv_heads)
    numpy.random.default_rng(1).standard_normal(size, dtype="<f4").tofile(path)


def problem(workload, expected, given, tolerance):
    """What is wrong with results, if anything; `given` may hold `out` alone."""
    query = sum(workload["lengths"]) * workload["heads"] * workload["head_dim"]
    key = query // workload["heads"] * workload["kv_heads"]
    names, ends = ("out", "dq", "dk", "dv"), numpy.cumsum([query, query, key, key])
    a, b = (numpy.fromfile(path, dtype="<f4").astype("f8") for path in (expected, given))
    if b.size not in (ends[0], ends[-1]):
        return f"{b.size} numbers, expected {ends[0]} or {ends[-1]}"
    for name, x, y in zip(names, numpy.split(a, ends[:-1]), numpy.split(b, ends[:-1])):
        distance = ((x[: y.size] - y) ** 2).mean() ** 0.5 if y.size else 0
        magnitude = ((x * x).mean() / 2 + (y * y).mean() / 2) ** 0.5 if y.size else 0
        if not distance <= tolerance * magnitude:
            return f"{name} is off: rms {distance:.2e}, magnitude {magnitude:.2e}"
    return None
