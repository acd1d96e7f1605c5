"""PyTorch's ways on a GPU, asked by gpu.py a line of JSON at a time.

Ways:
- flash2: FlashAttention-2's varlen kernels, called without autograd and replayed as CUDA graphs.
- cudnn: cuDNN's kernels over a batch of equal documents in one step, likewise.
- float64: no rival; plain products in float64, what results are compared with.

The passes are timed by events around graphs. Adding up gradients of K and V over steps is not timed.
"""

import numpy
import torch

from gpu_problem import collect, read, shapes, steps
from serve import serve

WAYS = ["flash2", "cudnn", "float64"]
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
aten = torch.ops.aten


def operands(request):
    dtype = TYPES[request["type"]]
    if request.get("operands"):
        return [torch.from_numpy(x).cuda().to(dtype) for x in read(request)]
    return [torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes(request)]


class Flash2:
    """A step's call."""

    def __init__(self, request, given, step):
        (self.q, self.dout), (self.k, self.v) = (
            [x[slice(*rows)] for x in pair] for pair, rows in (((given[0], given[3]), step.q), (given[1:3], step.k))
        )
        cu = [torch.tensor(cu, dtype=torch.int32, device="cuda") for cu in (step.cu_q, step.cu_k)]
        self.documents = (*cu, *step.longest)
        window = request.get("window")
        self.options = dict(
            scale=request["head_dim"] ** -0.5,
            window_size_left=window - 1 if window else None,
            window_size_right=0 if window else None,
        )

    def forward(self):
        self.made = aten._flash_attention_forward(
            self.q, self.k, self.v, *self.documents, 0.0, True, False, **self.options
        )

    def backward(self):
        out, lse, seed, offset = self.made[:4]
        self.gradients = aten._flash_attention_backward(
            self.dout, self.q, self.k, self.v, out, lse, *self.documents, 0.0, True, seed, offset, **self.options
        )

    def results(self):
        return [x.float().cpu().numpy() for x in (self.made[0], *self.gradients[:3])]


class Cudnn:
    """All documents as a batch, [documents, heads, length, head_dim] views."""

    def __init__(self, request, given, step):
        lengths = request["packings"][0]["lengths"]
        if len(set(lengths)) > 1 or len(request["packings"][0]["steps"]) > 1 or request.get("window"):
            raise ValueError("takes equal documents in one step, without a window")
        self.shape = (len(lengths), lengths[0])
        view = lambda x: x.unflatten(0, self.shape).transpose(1, 2)  # noqa: E731
        group = request["heads"] // request["kv_heads"]
        # Heads are repeated beforehand: its operator here takes as many of K/V as of Q.
        self.group = group
        q, k, v, dout = given
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        self.q, self.k, self.v, self.dout = (view(x) for x in (q, k, v, dout))
        self.scale = request["head_dim"] ** -0.5

    def forward(self):
        self.made = aten._scaled_dot_product_cudnn_attention(
            self.q, self.k, self.v, None, True, 0.0, True, False, scale=self.scale
        )

    def backward(self):
        out, lse, cu_q, cu_k, max_q, max_k, seed, offset, _ = self.made
        self.gradients = aten._scaled_dot_product_cudnn_attention_backward(
            self.dout, self.q, self.k, self.v, out, lse, seed, offset, None, cu_q, cu_k, max_q, max_k, 0.0, True,
            scale=self.scale,
        )

    def results(self):
        rows = lambda x: x.transpose(1, 2).flatten(0, 1).float()  # noqa: E731
        fold = lambda x: rows(x).unflatten(1, (-1, self.group)).sum(2)  # noqa: E731
        dq, dk, dv = self.gradients
        return [x.cpu().numpy() for x in (rows(self.made[0]), rows(dq), fold(dk), fold(dv))]


def graph(work):
    """What `work` launches, as a graph."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    torch.cuda.synchronize()
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made, stream=stream):
        work()
    return made


def milliseconds(graph):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def rival(request):
    way = {"flash2": Flash2, "cudnn": Cudnn}[request["way"]]
    packing = request["packings"][0]
    given = operands(request)
    calls = [way(request, given, step) for step in steps(packing)]
    forward = graph(lambda: [call.forward() for call in calls])
    backward = graph(lambda: [call.backward() for call in reversed(calls)])
    times = [(milliseconds(forward), milliseconds(backward)) for _ in request["packings"]]
    if request.get("results"):
        collect(request, [call.results() for call in calls])
    return dict(zip(("forward_ms", "backward_ms"), zip(*times)))


def float64(request):
    """Out and gradients of operands that are rounded to the type first, as everyone's are."""
    q, k, v, dout = (x.double() for x in operands(request))
    group = request["heads"] // request["kv_heads"]
    results, begin = [torch.zeros_like(x) for x in (q, q, k, v)], 0
    for length in request["packings"][0]["lengths"]:
        rows = slice(begin, begin + length)
        x, y, z, g = (t[rows].transpose(0, 1) for t in (q, k, v, dout))
        y, z = (t.repeat_interleave(group, 0) for t in (y, z))
        i = torch.arange(length, device="cuda")
        seen = i[:, None] >= i
        if request.get("window"):
            seen &= i > i[:, None] - request["window"]
        scale = request["head_dim"] ** -0.5
        p = (scale * x @ y.mT).masked_fill(~seen, -torch.inf).softmax(-1)
        o = p @ z
        ds = scale * p * (g @ z.mT - (o * g).sum(-1, keepdim=True))
        fold = lambda t: t.unflatten(0, (-1, group)).sum(1)  # noqa: E731
        for whole, part in zip(results, (o, ds @ y, fold(ds.mT @ x), fold(p.mT @ g))):
            whole[rows] = part.transpose(0, 1)
        begin += length
    with open(request["results"], "wb") as file:
        for result in results:
            file.write(result.cpu().numpy().astype(numpy.float32).tobytes())
    return {"forward_ms": [], "backward_ms": []}


def main():
    version = f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    answer = lambda request: (float64 if request["way"] == "float64" else rival)(request)  # noqa: E731
    serve({"name": "torch", "version": version, "threads": 1, "ways": WAYS}, answer)


if __name__ == "__main__":
    main()
