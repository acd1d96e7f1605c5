"""FlashAttention-3 through JAX (the wheel flash-attn3-jax), asked by gpu.py a line of JSON at a time.

Ways: flash3, its fastest; flash3_deterministic, whose gradients do not change from run to run.

All steps of a pass are one compiled program over arrays that were cut beforehand. A pass is timed by the
host's clock over CALLS programs that wait in the GPU's queue, so that their launches do not count.
"""

import os

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

import importlib.metadata  # noqa: E402
import time  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402
from flash_attn3_jax.varlen_bwd import flash_mha_varlen_bwd  # noqa: E402
from flash_attn3_jax.varlen_fwd import flash_mha_varlen_fwd  # noqa: E402

from gpu_problem import collect, read, shapes, steps  # noqa: E402
from serve import serve  # noqa: E402

WAYS = ["flash3", "flash3_deterministic"]
TYPES = {"bf16": jnp.bfloat16, "f16": jnp.float16}
CALLS = 4
seed = 0


def operands(request):
    global seed
    dtype = TYPES[request["type"]]
    if request.get("operands"):
        return [jnp.asarray(x).astype(dtype) for x in read(request)]
    seed += 1
    keys = jax.random.split(jax.random.key(seed), 4)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes(request))]


def programs(request, cut):
    """The passes as compiled functions of arrays."""
    window = (request["window"] - 1, 0) if request.get("window") else (-1, -1)
    deterministic = request["way"].endswith("deterministic")

    def options(step):
        longest = dict(zip(("max_seqlen_q", "max_seqlen_k"), step.longest))
        return dict(is_causal=True, window_size=window, softmax_scale=request["head_dim"] ** -0.5, **longest)

    @jax.jit
    def forward(arrays):
        return [
            flash_mha_varlen_fwd(q, k, v, cu_q, cu_k, **options(step))
            for step, (q, k, v, _, cu_q, cu_k) in zip(cut, arrays)
        ]

    @jax.jit
    def backward(arrays, made):
        return [
            flash_mha_varlen_bwd(
                dout, q, k, v, out, lse, cu_q, cu_k, deterministic=deterministic, **options(step)
            )
            for step, (q, k, v, dout, cu_q, cu_k), (out, lse) in zip(cut, arrays, made)
        ]

    return forward, backward


def milliseconds(program, *arguments):
    jax.block_until_ready(program(*arguments))
    begin = time.perf_counter()
    jax.block_until_ready([program(*arguments) for _ in range(CALLS)])
    return (time.perf_counter() - begin) * 1e3 / CALLS


def answer(request):
    if request["head_dim"] != 128:
        raise ValueError("the wheel has head_dim 128 only")
    cut = steps(request["packings"][0])
    q, k, v, dout = operands(request)
    integers = lambda x: jnp.asarray(x, dtype=jnp.int32)  # noqa: E731
    arrays = [
        (q[slice(*s.q)], k[slice(*s.k)], v[slice(*s.k)], dout[slice(*s.q)], integers(s.cu_q), integers(s.cu_k))
        for s in cut
    ]
    forward, backward = programs(request, cut)
    made = forward(arrays)
    times = [(milliseconds(forward, arrays), milliseconds(backward, arrays, made)) for _ in request["packings"]]
    if request.get("results"):
        wide = lambda x: numpy.asarray(x.astype(jnp.float32))  # noqa: E731
        gradients = backward(arrays, made)
        collect(request, [[wide(x) for x in (out, *g)] for (out, _), g in zip(made, gradients)])
    return dict(zip(("forward_ms", "backward_ms"), zip(*times)))


if __name__ == "__main__":
    version = f"flash-attn3-jax {importlib.metadata.version('flash-attn3-jax')}, JAX {jax.__version__}"
    serve({"name": "flash3", "version": version, "threads": 1, "ways": WAYS}, answer)
