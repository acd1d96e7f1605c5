"""What the GPU's rivals are given: operands from a file or drawn on the device, cut into steps."""

import dataclasses

import numpy


@dataclasses.dataclass
class Step:
    """A varlen call: rows of q, the window of rows of k and v, and the documents in both."""

    q: tuple
    k: tuple
    cu_q: list
    cu_k: list

    @property
    def longest(self):
        lengths = [[b - a for a, b in zip(cu, cu[1:])] for cu in (self.cu_q, self.cu_k)]
        return max(lengths[0]), max(lengths[1])


def steps(packing):
    found = []
    for calls in packing["steps"]:
        q0, k0 = calls[0][0], calls[0][2]
        cu_q = [call[0] - q0 for call in calls] + [calls[-1][1] - q0]
        cu_k = [call[2] - k0 for call in calls] + [calls[-1][3] - k0]
        found.append(Step((q0, calls[-1][1]), (k0, calls[-1][3]), cu_q, cu_k))
    return found


def shapes(request):
    """Of q, k, v, dout: [tokens, heads, head_dim]."""
    tokens = sum(request["packings"][0]["lengths"])
    counts = (request["heads"], request["kv_heads"], request["kv_heads"], request["heads"])
    return [(tokens, count, request["head_dim"]) for count in counts]


def read(request):
    """Operands as f32 arrays."""
    numbers = numpy.fromfile(request["operands"], dtype="<f4")
    sizes = [numpy.prod(shape) for shape in shapes(request)]
    parts = numpy.split(numbers, numpy.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes(request))]


def collect(request, results):
    """Writes out, dq and the sums of dk and dv; `results` are each step's, as f32 arrays."""
    q, k, v, _ = shapes(request)
    out, dq, dk, dv = (numpy.zeros(shape, dtype="<f4") for shape in (q, q, k, v))
    for step, (o, a, b, c) in zip(steps(request["packings"][0]), results):
        out[slice(*step.q)], dq[slice(*step.q)] = o, a
        dk[slice(*step.k)] += b
        dv[slice(*step.k)] += c
    with open(request["results"], "wb") as file:
        for array in (out, dq, dk, dv):
            file.write(array.tobytes())
