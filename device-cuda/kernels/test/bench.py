"""Times the gpu workloads of a workloads.json beside FlashAttention-2 through PyTorch.

    python3 bench.py workloads.json [name ...]

Each is one layer's forward and backward over all steps, replayed as CUDA graphs so that launches do
not count; medians of alternating repetitions. microseq's time includes accumulation into the
gradient store; FlashAttention-2's leaves it out.
"""

import json
import statistics
import sys

import torch

import driver
import driver_sm90
from documents import NO_WINDOW, step_documents

if torch.cuda.get_device_capability() == (9, 0) and driver.KERNELS == "wgmma":
    driver = driver_sm90
Call, Schedule, Scratch, Shape = driver.Call, driver.Schedule, driver.Scratch, driver.Shape


def captured(work):
    torch.cuda.synchronize()  # what `work` needs was made on another stream
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph


def milliseconds(graph):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def ours(w, q, kv, dout, steps):
    heads, kv_heads = w["heads"], w["kv_heads"]
    k, v = kv[:, :kv_heads], kv[:, kv_heads:]
    out, dq = torch.empty_like(q), torch.empty_like(q)
    lse = torch.empty(heads, q.shape[0], device="cuda")
    dkv = torch.zeros(kv.shape, device="cuda")
    shape = Shape(q.dtype, w["head_dim"])
    calls = []
    for begin, end in steps:
        documents, first = step_documents(w["lengths"], begin, end)
        schedule = Schedule(documents, heads, kv_heads, True, w["window"] or NO_WINDOW, shape)
        call = Call(schedule, q[begin:end], k[first:end], v[first:end], out[begin:end],
                    lse[:, begin:end])
        scratch = Scratch(schedule, end - begin, heads, kv_heads)
        calls.append((call, scratch, dout[begin:end], dq[begin:end],
                      dkv[first:end, :kv_heads], dkv[first:end, kv_heads:]))

    def forward():
        for call, *_ in calls:
            call.forward()

    def backward():
        for call, *gradients in reversed(calls):
            call.backward(*gradients)

    return forward, backward


def flash2(w, q, kv, dout, steps):
    heads, kv_heads = w["heads"], w["kv_heads"]
    window = (w["window"] - 1, 0) if w["window"] else (None, None)
    options = dict(window_size_left=window[0], window_size_right=window[1])
    scale = w["head_dim"] ** -0.5
    calls = []
    for begin, end in steps:
        documents, first = step_documents(w["lengths"], begin, end)
        documents = [d for d in documents if d[3]]
        cu_q = torch.tensor([0] + [d[0] + d[1] for d in documents], dtype=torch.int32, device="cuda")
        cu_k = torch.tensor([0] + [d[2] + d[3] for d in documents], dtype=torch.int32, device="cuda")
        k, v = kv[first:end, :kv_heads], kv[first:end, kv_heads:]
        calls.append((q[begin:end], k, v, dout[begin:end], cu_q, cu_k,
                      max(d[1] for d in documents), max(d[3] for d in documents)))
    saved = [None] * len(calls)

    def forward():
        for i, (x, k, v, _, cu_q, cu_k, max_q, max_k) in enumerate(calls):
            saved[i] = torch.ops.aten._flash_attention_forward(
                x, k, v, cu_q, cu_k, max_q, max_k, 0.0, True, False, scale=scale, **options)

    def backward():
        for (x, k, v, g, cu_q, cu_k, max_q, max_k), s in zip(reversed(calls), reversed(saved)):
            torch.ops.aten._flash_attention_backward(
                g, x, k, v, s[0], s[1], cu_q, cu_k, max_q, max_k, 0.0, True, s[2], s[3],
                scale=scale, **options)

    return forward, backward


def main():
    workloads = json.load(open(sys.argv[1]))["gpu"]
    print(torch.cuda.get_device_name(), torch.__version__)
    print(f"{'workload':24} {'forward':>8} {'backward':>8} {'total':>8}   {'FA2':>8} {'FA2':>8} "
          f"{'total':>8}  ratio  TFLOP/s")
    for w in workloads:
        if sys.argv[2:] and w["name"] not in sys.argv[2:]:
            continue
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[w["dtype"]]
        tokens, micro = w["tokens"], w["micro_sequence_length"]
        steps = [(b, min(b + micro, tokens)) for b in range(0, tokens, micro)]
        q, dout = (torch.randn(tokens, w["heads"], w["head_dim"], device="cuda", dtype=dtype)
                   for _ in range(2))
        kv = torch.randn(tokens, 2 * w["kv_heads"], w["head_dim"], device="cuda", dtype=dtype)
        # `work` owns the memory that the graphs use.
        work = [f for side in (ours, flash2) for f in side(w, q, kv, dout, steps)]
        graphs = [captured(f) for f in work]
        times = [[] for _ in graphs]
        for _ in range(10):
            for graph, t in zip(graphs, times):
                t.append(milliseconds(graph))
        a, b, c, d = (statistics.median(t[1:]) for t in times)
        flops = 4 * w["pairs_per_head"] * w["heads"] * w["head_dim"]
        print(f"{w['name']:24} {a:8.3f} {b:8.3f} {a + b:8.3f}   {c:8.3f} {d:8.3f} {c + d:8.3f}  "
              f"{(a + b) / (c + d):5.2f}  {flops / a / 1e9:.0f} {2.5 * flops / b / 1e9:.0f}  "
              f"{flops / c / 1e9:.0f} {2.5 * flops / d / 1e9:.0f}", flush=True)


if __name__ == "__main__":
    main()
