#!/usr/bin/env python3
"""Measures microseq on a GPU beside FlashAttention-2, cuDNN and FlashAttention-3, in one run.

    benches/rivals/gpu.py MICROSEQ [--workloads NAME ...] [--json FILE]

MICROSEQ is the program `microseq` of benches/rivals/rust, built with the feature `cuda`. PyTorch must be
here; without JAX and the wheel flash-attn3-jax FlashAttention-3 is left out, which the table says.

Every rival is a process that idles between requests; they take turns on operands of normal numbers that
each draws anew. Before that, each computes a small problem of the same heads; its distance from float64
is part of the table. microseq's time includes the accumulation into the gradient store, which the others
leave out; it is deterministic, which only `flash3_deterministic` is of the others.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy
from data import cut, write_operands
from processes import HERE, Rival

NAMES = ("out", "dq", "dk", "dv")


def request(workload, dtype, way, packings, operands=None, results=None):
    keys = ("heads", "kv_heads", "head_dim", "micro_sequence_length", "window")
    return {
        **{key: workload[key] for key in keys},
        "type": dtype,
        "way": way,
        "packings": packings,
        "operands": operands and str(operands),
        "results": results and str(results),
    }


def small(workload):
    """As the workload, with two documents in three steps, unless it is all one step of equal ones."""
    same = len(set(workload["lengths"])) == 1 and workload["micro_sequence_length"] >= workload["tokens"]
    lengths, micro = ([500, 500], 1000) if same else ([700, 500], 450)
    return {**workload, "lengths": lengths, "tokens": sum(lengths), "micro_sequence_length": micro}


def results(path, workload):
    """Out, dq, dk, dv as rows of numbers."""
    counts = [workload[key] for key in ("heads", "heads", "kv_heads", "kv_heads")]
    sizes = [sum(workload["lengths"]) * count * workload["head_dim"] for count in counts]
    numbers = numpy.fromfile(path, dtype="<f4").astype("f8")
    if numbers.size != sum(sizes):
        raise SystemExit(f"{path} has {numbers.size} numbers, expected {sum(sizes)}")
    return numpy.split(numbers, numpy.cumsum(sizes)[:-1])


def errors(given, exact):
    """rms of the difference over rms, of each result."""
    rms = lambda x: float((x * x).mean() ** 0.5)  # noqa: E731
    return {name: rms(a - b) / rms(b) for name, a, b in zip(NAMES, given, exact)}


class Contender:
    def __init__(self, rival, way):
        self.rival, self.way, self.forward, self.backward = rival, way, [], []

    def row(self):
        forward, backward = statistics.median(self.forward), statistics.median(self.backward)
        return {
            "rival": self.way,
            "repetitions": len(self.forward),
            "forward_ms": forward,
            "backward_ms": backward,
            "total_ms": forward + backward,
            "errors": self.errors,
        }


def line_up(rivals, workload, dtype, folder):
    """Who computes the right thing, and how far from float64."""
    problem = small(workload)
    operands, exact, given = (folder / name for name in ("operands", "exact", "given"))
    write_operands(operands, problem)
    packings = [cut(problem, problem["lengths"])]
    torch = next(rival for rival in rivals if rival.label == "torch")
    answer = torch.ask(request(problem, dtype, "float64", packings, operands, exact))
    if "error" in answer:
        raise SystemExit(f"float64: {answer['error']}")
    contenders, left_out = [], []
    for rival in rivals:
        for way in (way for way in rival.hello["ways"] if way != "float64"):
            given.unlink(missing_ok=True)
            answer = rival.ask(request(problem, dtype, way, packings, operands, given))
            contender = Contender(rival, way)
            why = answer.get("error")
            if not why:
                contender.errors = errors(results(given, problem), results(exact, problem))
                worst = max(contender.errors.values())
                why = None if worst < 0.05 else f"{worst:.2e} from float64"
            if why:
                left_out.append({"rival": way, "why": why})
            else:
                contenders.append(contender)
    return contenders, left_out


def measure(rivals, workload, dtype, options, folder):
    contenders, left_out = line_up(rivals, workload, dtype, folder)
    # One more, not counted: a rival comes from a pause.
    packings = [cut(workload, workload["lengths"])] * (options.repetitions + 1)
    for _ in range(options.rounds):
        for contender in list(contenders):
            answer = contender.rival.ask(request(workload, dtype, contender.way, packings))
            if "error" in answer:
                contenders.remove(contender)
                left_out.append({"rival": contender.way, "why": answer["error"]})
                continue
            contender.forward += answer["forward_ms"][1:]
            contender.backward += answer["backward_ms"][1:]
    flops = 4 * workload["pairs_per_head"] * workload["heads"] * workload["head_dim"]
    rows = [contender.row() for contender in contenders]
    return {
        "workload": workload["name"],
        "type": dtype,
        "forward_flops": flops,
        "rows": rows,
        "left_out": left_out,
    }


def table(measurement):
    flops, rows = measurement["forward_flops"], measurement["rows"]
    ours = next((row["total_ms"] for row in rows if row["rival"] == "microseq"), None)
    yield f"{measurement['workload']} {measurement['type']}"
    yield f"  {'':22}forward backward    total    TFLOP/s  microseq/it  rms errors of {', '.join(NAMES)}"
    for row in rows:
        rates = f"{flops / row['forward_ms'] / 1e9:4.0f} {2.5 * flops / row['backward_ms'] / 1e9:4.0f}"
        ratio = f"{ours / row['total_ms']:11.3f}" if ours else ""
        far = " ".join(f"{row['errors'][name]:.1e}" for name in NAMES)
        times = " ".join(f"{row[key]:8.3f}" for key in ("forward_ms", "backward_ms", "total_ms"))
        yield f"  {row['rival']:21}{times}  {rates}  {ratio}  {far}"
    for one in measurement["left_out"]:
        yield f"  {one['rival']} is left out: {one['why']}"


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def start(program):
    rivals = [
        Rival("microseq", [program, "cuda"], {}),
        Rival("torch", [sys.executable, HERE / "torch_gpu_rival.py"], {}),
    ]
    found = subprocess.run([sys.executable, "-c", "import flash_attn3_jax"], capture_output=True, text=True)
    if found.returncode:
        print(f"FlashAttention-3 is left out: {found.stderr.strip().splitlines()[-1]}")
    else:
        rivals.append(Rival("jax", [sys.executable, HERE / "jax_rival.py"], {}))
    return rivals


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("microseq", type=pathlib.Path, help="the program")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="of workloads.json [default: all]")
    parser.add_argument("--types", nargs="+", default=["bf16"], choices=["f16", "bf16"])
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn [default: 3]")
    parser.add_argument("--repetitions", type=int, default=5, help="in a turn [default: 5]")
    parser.add_argument("--built-from", help="the program's commit, for the file")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the measurements")
    options = parser.parse_args()
    known = {workload["name"]: workload for workload in json.loads((HERE.parent / "workloads.json").read_text())["gpu"]}
    unknown = [name for name in options.workloads or [] if name not in known]
    if unknown:
        parser.error(f"there is no workload {unknown[0]}, expected some of {', '.join(known)}")
    options.workloads = [known[name] for name in options.workloads or known]
    return options


def main():
    options = arguments()
    rivals = start(options.microseq)
    report = {
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "gpu": gpu(),
        "versions": {rival.label: rival.hello["version"] for rival in rivals},
        "commit": options.built_from,
        "rounds": options.rounds,
        "repetitions": options.repetitions,
        "measurements": [],
    }
    print(report["gpu"], report["versions"], options.built_from, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for workload in options.workloads:
            for dtype in options.types:
                measurement = measure(rivals, workload, dtype, options, pathlib.Path(folder))
                report["measurements"].append(measurement)
                print("\n".join(table(measurement)), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(report, indent=1) + "\n")
    for rival in rivals:
        rival.close()


if __name__ == "__main__":
    main()
