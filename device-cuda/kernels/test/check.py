"""Checks the kernels against float64 on fresh random inputs, and the invariants bit by bit.

    python3 check.py [--quick]
"""

import contextlib
import itertools
import math
import random
import sys

import torch

import driver
import driver_sm90
import order
from documents import NO_WINDOW, step_documents, visible, zeroed_rows

if torch.cuda.get_device_capability() == (9, 0) and driver.KERNELS == "wgmma":
    driver = driver_sm90
Call, Schedule, Scratch, Shape = driver.Call, driver.Schedule, driver.Scratch, driver.Shape

TOLERANCE = {torch.float32: (1e-5, 1e-5), torch.float16: (1e-3, 3e-3), torch.bfloat16: (5e-3, 1.5e-2)}
FAILED = []


def reference(documents, q, k, v, dout, causal, window, scale, softcap):
    """out, lse, dq, dk, dv in float64 by an explicit masked softmax, and how large the terms of out, dq, dk and dv are:
    the roots of the sums of their squares. A score's gradient is rounded, and so is what is taken from it, a sum over
    out, unless the query sees one key: it is zero then."""
    q, k, v, dout = (t.double() for t in (q, k, v, dout))
    group = q.shape[1] // k.shape[1]
    out, dq, out_terms, dq_terms = (torch.zeros_like(q) for _ in range(4))
    dk, dv, dk_terms, dv_terms = (torch.zeros_like(k) for _ in range(4))
    lse = torch.full((q.shape[1], q.shape[0]), -math.inf, dtype=torch.float64, device="cuda")
    for q0, qn, k0, kn in documents:
        if qn == 0 or kn == 0:
            continue
        x = q[q0:q0 + qn].transpose(0, 1)
        y = k[k0:k0 + kn].transpose(0, 1).repeat_interleave(group, 0)
        z = v[k0:k0 + kn].transpose(0, 1).repeat_interleave(group, 0)
        g = dout[q0:q0 + qn].transpose(0, 1)
        s = scale * x @ y.transpose(1, 2)
        slope = torch.ones_like(s)
        if softcap:
            t = torch.tanh(s / softcap)
            s, slope = softcap * t, 1 - t * t
        i = torch.arange(qn, device="cuda")[:, None] + kn - qn
        j = torch.arange(kn, device="cuda")[None, :]
        seen = j > i - window
        if causal:
            seen &= j <= i
        s = s.masked_fill(~seen, -math.inf)
        l = torch.logsumexp(s, -1)
        p = torch.exp(s - torch.where(l == -math.inf, 0.0, l)[..., None])
        o = p @ z
        dp, delta = g @ z.transpose(1, 2), (o * g).sum(-1, keepdim=True)
        ds = p * (dp - delta) * slope * scale
        taken = (p * slope * scale).square() * (o * g).square().sum(-1, keepdim=True)
        ds_terms = (ds.square() + taken).masked_fill(seen.sum(-1, keepdim=True) == 1, 0)
        out[q0:q0 + qn] = o.transpose(0, 1)
        out_terms[q0:q0 + qn] = (p.square() @ z.square()).sqrt().transpose(0, 1)
        lse[:, q0:q0 + qn] = l
        dq[q0:q0 + qn] = (ds @ y).transpose(0, 1)
        dq_terms[q0:q0 + qn] = (ds_terms @ y.square()).sqrt().transpose(0, 1)
        fold = lambda t: t.unflatten(0, (-1, group)).sum(1).transpose(0, 1)
        dk[k0:k0 + kn] += fold(ds.transpose(1, 2) @ x)
        dv[k0:k0 + kn] += fold(p.transpose(1, 2) @ g)
        dk_terms[k0:k0 + kn] += fold(ds_terms.transpose(1, 2) @ x.square())
        dv_terms[k0:k0 + kn] += fold(p.square().transpose(1, 2) @ g.square())
    return out, lse, dq, dk, dv, (out_terms, dq_terms, dk_terms.sqrt(), dv_terms.sqrt())


def rms(t):
    return t.double().square().mean().sqrt().item()


def compare(case, name, got, want, tolerance, terms=None):
    got = got.double()
    finite = torch.isfinite(want)
    if not torch.equal(torch.isfinite(got), finite) or not torch.equal(got[~finite], want[~finite]):
        FAILED.append(f"{case} {name}: NaN or infinity, {int((~torch.isfinite(got)).sum())} of "
                      f"{got.numel()}, wanted {int((~finite).sum())}")
        return
    a, b = got[finite], want[finite]
    if a.numel() == 0:
        return
    # The floor is for queries of one key: dq is then a difference of two equal sums.
    bound = max(tolerance * math.sqrt((rms(a) ** 2 + rms(b) ** 2) / 2), 5e-6)
    if terms is not None:  # few elements may all be much smaller than what was rounded and added up
        bound = max(bound, tolerance * rms(terms))
    if not rms(a - b) <= bound:
        FAILED.append(f"{case} {name}: error {rms(a - b):.3g} above {bound:.3g}")


def poisoned(*shape, dtype):
    return torch.full(shape, math.nan, dtype=dtype, device="cuda")


def strided(rows, heads, dim, dtype, pad, fill=None):
    """A [rows, heads, dim] view in a larger buffer of NaN; `pad` elements follow each head."""
    buffer = poisoned(rows, heads + 1, dim + pad, dtype=dtype)
    t = buffer[:, :heads, :dim]
    t.copy_(torch.randn(rows, heads, dim, device="cuda") if fill is None else
            torch.full((rows, heads, dim), fill, device="cuda"))
    return t


def case(dtype, head_dim, heads, kv_heads, documents, causal=True, window=NO_WINDOW, scale=None,
         softcap=0.0, pad=0, packed=False, zeroed=False):
    name = (f"{dtype} d={head_dim} h={heads}/{kv_heads} causal={causal} window={window} "
            f"scale={scale} softcap={softcap} pad={pad} packed={packed} zeroed={zeroed} {documents[:4]}")
    rows = max(a + b for a, b, _, _ in documents)
    key_rows = max(1, max(c + d for _, _, c, d in documents))
    scale = head_dim ** -0.5 if scale is None else scale
    q, dout = (strided(rows, heads, head_dim, dtype, pad) for _ in range(2))
    if packed:
        kv = strided(key_rows, 2 * kv_heads, head_dim, dtype, pad)
        k, v = kv[:, :kv_heads], kv[:, kv_heads:]
    else:
        k, v = (strided(key_rows, kv_heads, head_dim, dtype, pad) for _ in range(2))
    out, dq = (strided(rows, heads, head_dim, dtype, pad, math.nan) for _ in range(2))
    lse = poisoned(heads, rows + 3, dtype=torch.float32)[:, :rows]
    store = torch.randn(key_rows, 2 * kv_heads, head_dim, device="cuda")
    if zeroed:
        store.zero_()
    dkv = store.clone()

    shape = Shape(dtype, head_dim)
    schedule = Schedule(documents, heads, kv_heads, causal, window, shape, key_rows if zeroed else 0)
    scratch = Scratch(schedule, rows, heads, kv_heads)
    call = Call(schedule, q, k, v, out, lse, scale, softcap)
    call.forward()
    dk, dv = dkv[:, :kv_heads], dkv[:, kv_heads:]
    cuts = order.cuts_of(kv_heads, window, 64)  # parts add to what is there
    if zeroed and not cuts and getattr(call, "hopper", lambda *_: False)(dout, dq, dk, dv):
        for _, queries, row, keys in documents:  # what is promised to hold zeros is not read
            low = visible(keys - queries, keys, causal, window)[0]
            high = visible(keys - 1, keys, causal, window)[1] if queries else 0
            dkv[row + low:row + max(low, high)] = math.nan
    call.backward(scratch, dout, dq, dk, dv)
    torch.cuda.synchronize()

    want = reference(documents, q, k, v, dout, causal, window, scale, softcap)
    near, far = TOLERANCE[dtype]
    out_terms, dq_terms, dk_terms, dv_terms = want[5]
    compare(name, "out", out, want[0], near, terms=out_terms)
    compare(name, "lse", lse, want[1], max(1e-5, near / 10))
    compare(name, "dq", dq, want[2], far, terms=dq_terms)
    compare(name, "dk", dkv[:, :kv_heads], store[:, :kv_heads] + want[3], far, terms=dk_terms)
    compare(name, "dv", dkv[:, kv_heads:], store[:, kv_heads:] + want[4], far, terms=dv_terms)


def random_documents(rng, keys_match):
    documents, row, key = [], 0, 0
    for _ in range(rng.randint(1, 5)):
        q = rng.choice([0, 1, rng.randint(1, 20), rng.randint(1, 400)])
        k = q + rng.choice([0, 0, 3, 130]) if keys_match else rng.randint(0, 500)
        documents.append((row, q, key, k))
        row, key = row + q, key + k
    documents.append((row, rng.randint(1, 40), 0, 0))
    return documents


def random_cases(count, seed):
    rng = random.Random(seed)
    for i in range(count):
        dtype = rng.choice([torch.float32, torch.float16, torch.bfloat16])
        head_dim = rng.choice([1, 7, 20, 32, 64, 80, 96, 128, 128, 192, 256, 300, 512])
        kv_heads = rng.choice([1, 2, 8])
        heads = kv_heads * rng.choice([1, 2, 3, 4, 8])
        case(dtype, head_dim, heads, kv_heads, random_documents(rng, rng.random() < 0.5),
             causal=rng.random() < 0.7, window=rng.choice([NO_WINDOW, NO_WINDOW, 1, 17, 100]),
             scale=rng.choice([None, None, 0.3, -0.2, 0.0]), softcap=rng.choice([0.0, 0.0, 3.0, 1e6]),
             pad=rng.choice([0, 8, 3]), packed=rng.random() < 0.5, zeroed=rng.random() < 0.4)


def sequence(lengths, tokens, cuts, q, k, v, dout, schedule_for, told=False):
    """Forward over steps in order and backward in reverse; the store's gradient starts at 0. `told`: where it still
    does is said."""
    heads, kv_heads = q.shape[1], k.shape[1]
    out, dq = torch.full_like(q, math.nan), torch.full_like(q, math.nan)
    lse = poisoned(heads, tokens, dtype=torch.float32)
    dk, dv = (torch.zeros(k.shape, device="cuda") for _ in range(2))
    steps = list(zip([0, *cuts], [*cuts, tokens]))
    calls = []
    for begin, end in steps:
        documents, first = step_documents(lengths, begin, end)
        schedule = schedule_for(documents, zeroed_rows(lengths, begin, end) if told else 0)
        call = Call(schedule, q[begin:end], k[first:end], v[first:end], out[begin:end],
                    lse[:, begin:end])
        call.forward()
        calls.append((call, begin, end, first))
    for call, begin, end, first in reversed(calls):
        scratch = Scratch(call.schedule, end - begin, heads, kv_heads)
        call.backward(scratch, dout[begin:end], dq[begin:end], dk[first:end], dv[first:end])
    torch.cuda.synchronize()
    return out, lse, dq, dk, dv


def bits(t):
    return t.contiguous().view(torch.int32 if t.element_size() == 4 else torch.int16)


def same_bits(case, names, a, b, select):
    for name, x, y in zip(("out", "lse", "dq", "dk", "dv"), a, b):
        if name in names and not torch.equal(bits(select(name, x)), bits(select(name, y))):
            FAILED.append(f"{case} {name}: bits differ")


def invariants(dtype, head_dim, heads, kv_heads, window):
    group = heads // kv_heads
    shape = Shape(dtype, head_dim)
    schedule_for = lambda documents, zeroed: Schedule(documents, heads, kv_heads, True, window, shape, zeroed)
    rows = shape.rows * order.grain_of(shape.cuts(group, kv_heads))
    grain = 1 if not shape.mma else rows // math.gcd(rows, group)
    if getattr(shape, "hopper", False):
        grain = shape.b_rows // group * order.grain_of(order.cuts_of(kv_heads, window, shape.b_rows))
    name = f"invariants {dtype} d={head_dim} h={heads}/{kv_heads} window={window}"
    lengths, tokens = [700, 30, 0, 1, 333, 900], 2000
    data = [torch.randn(tokens, h, head_dim, device="cuda").to(dtype)
            for h in (heads, kv_heads, kv_heads, heads)]
    whole = sequence(lengths, tokens, [], *data, schedule_for)
    everything = lambda n, t: t
    again = sequence(lengths, tokens, [], *data, schedule_for)
    same_bits(name + " again", ("out", "lse", "dq", "dk", "dv"), whole, again, everything)
    with another_order():
        other = sequence(lengths, tokens, [], *data, schedule_for)
    same_bits(name + " in another order", ("out", "lse", "dq", "dk", "dv"), whole, other, everything)
    for cuts in ([500, 1000, 1500], [1], [699, 777, 1064], list(range(100, 2000, 100))):
        cut = sequence(lengths, tokens, cuts, *data, schedule_for)
        names = ("out", "lse", "dq", "dk", "dv") if grain == 1 else ("out", "lse", "dq")
        same_bits(f"{name} cuts {cuts}", names, whole, cut, everything)
        told = sequence(lengths, tokens, cuts, *data, schedule_for, told=True)
        same_bits(f"{name} cuts {cuts}, told of zeros", ("out", "lse", "dq", "dk", "dv"), cut, told, everything)
    # Cuts at multiples of the grain from the begin of the document that is cut.
    begins = itertools.accumulate(lengths, initial=0)
    cuts = sorted({begin + grain * i for begin, length in zip(begins, lengths) for i in (0, 1, 2, 4, 5)
                   if grain * i < length} - {0})
    cut = sequence(lengths, tokens, cuts, *data, schedule_for)
    same_bits(f"{name} grain {grain}", ("out", "lse", "dq", "dk", "dv"), whole, cut, everything)
    # The last document alone.
    alone = sequence([900], 900, [], *[t[1064:1964].clone() for t in data], schedule_for)
    part = lambda n, t: t[:, -936:-36] if n == "lse" and t.shape[1] == tokens else (
        t[1064:1964] if t.shape[0] == tokens else t)
    same_bits(name + " alone", ("out", "lse", "dq", "dk", "dv"), whole, alone, part)


@contextlib.contextmanager
def another_order():
    """Schedules made here begin their pieces as if for fewer blocks and a smaller cache."""
    usual = order.in_order
    order.in_order = lambda documents, part, kv_heads, blocks, cached, before: usual(
        documents, part, kv_heads, max(1, blocks // 16), cached // 8, before)
    try:
        yield
    finally:
        order.in_order = usual


def repeats(lengths, heads, kv_heads, window, count, head_dim=128):
    """A backward pass again and again: what blocks race for must not change a bit."""
    tokens, shape = sum(lengths), Shape(torch.bfloat16, head_dim)
    documents, _ = step_documents(lengths, 0, tokens)
    schedule = Schedule(documents, heads, kv_heads, True, window, shape)
    q, k, v, dout = (torch.randn(tokens, h, head_dim, device="cuda").bfloat16()
                     for h in (heads, kv_heads, kv_heads, heads))
    call = Call(schedule, q, k, v, torch.empty_like(q), torch.empty(heads, tokens, device="cuda"))
    call.forward()

    def run():
        dq, (dk, dv) = poisoned(*q.shape, dtype=q.dtype), (torch.zeros(k.shape, device="cuda") for _ in range(2))
        call.backward(Scratch(schedule, tokens, heads, kv_heads), dout, dq, dk, dv)
        return dq, dk, dv

    first = run()
    differ = sum(any(not torch.equal(bits(x), bits(y)) for x, y in zip(first, run())) for _ in range(count))
    if differ:
        FAILED.append(f"repeats {lengths[:3]} d={head_dim} h={heads}/{kv_heads} window={window}: "
                      f"{differ} of {count} differ")


def main():
    quick = "--quick" in sys.argv
    seed = random.randrange(10**6)
    print("seed", seed, torch.cuda.get_device_name())
    torch.manual_seed(seed)
    for dtype, head_dim in itertools.product(
            (torch.float32, torch.float16, torch.bfloat16), (64, 128, 192, 256, 512)):
        case(dtype, head_dim, 4, 1, [(0, 200, 0, 200), (200, 77, 200, 300)])
    print("fixed cases done", len(FAILED))
    random_cases(20 if quick else 150, seed)
    print("random cases done", len(FAILED))
    for dtype, head_dim, heads, kv_heads in (
            (torch.bfloat16, 128, 8, 2), (torch.bfloat16, 128, 64, 8), (torch.float16, 64, 16, 2),
            (torch.bfloat16, 128, 24, 2), (torch.bfloat16, 256, 3, 1),
            (torch.float16, 192, 4, 2), (torch.bfloat16, 256, 64, 8),
            (torch.float32, 40, 4, 2), (torch.float32, 200, 4, 2), (torch.float32, 300, 4, 2),
            (torch.bfloat16, 512, 4, 2))[:1 if quick else None]:
        for window in (NO_WINDOW, 150):
            invariants(dtype, head_dim, heads, kv_heads, window)
    count = 10 if quick else 30
    repeats([700, 30, 0, 1, 333, 900], 8, 2, NO_WINDOW, count)
    repeats([2000], 8, 2, NO_WINDOW, count)
    repeats([2000], 8, 2, 150, count)
    repeats([4096, 4096], 32, 8, NO_WINDOW, count)
    repeats([6000, 40, 700, 1500], 8, 1, NO_WINDOW, count)
    repeats([6000, 40, 700, 1500], 4, 1, 1000, count, 64)
    repeats([6000, 40, 700, 1500], 24, 2, NO_WINDOW, count)
    repeats([3000, 40, 1500], 12, 3, NO_WINDOW, count, 64)
    with another_order():
        repeats([6000, 40, 700, 1500], 8, 1, NO_WINDOW, count)
    for head_dim in (192, 256):
        repeats([700, 30, 0, 1, 333, 900], 8, 2, NO_WINDOW, count, head_dim)
        repeats([2000], 8, 2, 150, count, head_dim)
        repeats([2048, 2048], 16, 4, NO_WINDOW, count, head_dim)
    print("repeats done", len(FAILED))
    for line in FAILED[:30]:
        print("FAILED", line)
    print(f"{len(FAILED)} failed")
    sys.exit(bool(FAILED))


main()
