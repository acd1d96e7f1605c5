#!/usr/bin/env python3
"""Measures microseq beside PyTorch, candle and burn: same workloads, same operands, one run.

Every rival is a process of its own that idles between requests. They take turns, round after round,
so that whatever the machine does at the time (clocks, neighbours) meets all of them: ratios are only
ever taken within one run. Results are compared with microseq's before anything is timed. PyTorch runs
twice, as it comes and with MKL made to take its AVX-512 path, which it otherwise keeps to Intel.

GFLOP/s count 4 * pairs * head_dim * heads operations forward and 2.5 times as many backward. PyTorch's
way, for each workload, is the fastest of its ways. See README.md beside ../.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import sys
import tempfile

from processes import HERE, VENV, Rival, machine, start, tool

if not VENV.exists():
    raise SystemExit("run benches/rivals/setup.sh first")
if pathlib.Path(sys.prefix) != VENV.parent.parent:
    # numpy is in the virtual environment.
    os.execv(VENV, [str(VENV), *sys.argv])

from data import cut, flops, problem, redraw, write_operands  # noqa: E402 (numpy, see above)
from report import ratios, table  # noqa: E402

WORKLOADS = HERE.parent / "workloads.json"
# rms(a - b) <= tolerance * sqrt(mean((a^2 + b^2) / 2)). Rivals round more often than microseq does
# (their K/V gradients are 16 bits wide, some multiply in 16 bits), so these are wider than its own.
TOLERANCES = {"f32": 1e-4, "f16": 1e-2, "bf16": 4e-2}


def request(workload, dtype, way, packings, operands, results=None):
    keys = ("heads", "kv_heads", "head_dim", "micro_sequence_length")
    shape = {key: workload[key] for key in keys}
    return {
        **shape,
        "type": dtype,
        "way": way,
        "packings": packings,
        "operands": str(operands),
        "results": results and str(results),
    }


@dataclasses.dataclass
class Contender:
    """A rival's way on a workload, and its times so far."""

    rival: Rival
    way: str
    forward_gflops: list = dataclasses.field(default_factory=list)
    backward_gflops: list = dataclasses.field(default_factory=list)
    total_gflops: list = dataclasses.field(default_factory=list)

    def name(self):
        return self.rival.label if self.rival.label == "microseq" else f"{self.rival.label} {self.way}"

    def add(self, work, forward_ms, backward_ms):
        self.forward_gflops.append(work / forward_ms / 1e6)
        if backward_ms is not None:
            self.backward_gflops.append(2.5 * work / backward_ms / 1e6)
            self.total_gflops.append(3.5 * work / (forward_ms + backward_ms) / 1e6)

    def row(self):
        def median(values):
            return statistics.median(values) if values else None

        return {
            "rival": self.rival.label,
            "way": self.way,
            "repetitions": len(self.forward_gflops),
            "forward_gflops": median(self.forward_gflops),
            "backward_gflops": median(self.backward_gflops),
            "total_gflops": median(self.total_gflops),
        }


def line_up(rivals, workload, dtype, operands, folder):
    """The ways that compute the right thing, each run once, which also warms it up."""
    contenders, refused = [], []
    packings = [cut(workload, workload["lengths"])]
    expected, given = folder / "expected", folder / "given"
    for rival in rivals:
        for way in (way for way in rival.hello["ways"] if way != "peak"):
            path = expected if rival.label == "microseq" else given
            answer = rival.ask(request(workload, dtype, way, packings, operands, path))
            why = answer.get("error") or problem(workload, expected, path, TOLERANCES[dtype])
            if why:
                refused.append({"rival": rival.label, "way": way, "why": why})
                print(f"  {rival.label} {way} is left out: {why}", file=sys.stderr)
            else:
                contenders.append(Contender(rival, way))
    return contenders, refused


def take_turns(contenders, workload, dtype, operands, options):
    """Rounds: each contender in turn, a few repetitions each."""
    generator = random.Random(1)
    for _ in range(options.rounds):
        lengths = workload["lengths"]
        if options.fresh:
            drawn = [redraw(lengths, generator) for _ in range(options.repetitions)]
        else:
            # One more, not counted: a rival comes from a pause.
            drawn = [lengths] * (options.repetitions + 1)
        packings = [cut(workload, lengths) for lengths in drawn]
        for contender in contenders:
            answer = contender.rival.ask(request(workload, dtype, contender.way, packings, operands))
            if "error" in answer:
                raise SystemExit(f"{contender.name()}: {answer['error']}")
            backward = answer["backward_ms"] or [None] * len(packings)
            times = list(zip(packings, answer["forward_ms"], backward))
            for packing, forward_ms, backward_ms in times if options.fresh else times[1:]:
                contender.add(flops(workload, packing), forward_ms, backward_ms)


def measure(rivals, workload, dtype, options, folder):
    operands = folder / "operands"
    write_operands(operands, workload)
    contenders, refused = line_up(rivals, workload, dtype, operands, folder)
    before = rivals[0].ask(request(workload, dtype, "peak", [], operands))
    take_turns(contenders, workload, dtype, operands, options)
    after = rivals[0].ask(request(workload, dtype, "peak", [], operands))
    peak = max(before["peak_gflops"], after["peak_gflops"])
    rows = [contender.row() for contender in contenders]
    return {
        "workload": workload["name"],
        "type": dtype,
        "peak_gflops": peak,
        "peak_instruction": before["peak_instruction"],
        "rows": rows,
        "left_out": refused,
        "ratios": ratios(rows),
    }


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workloads", nargs="+", metavar="NAME", help="of workloads.json [default: all for the CPU]"
    )
    parser.add_argument("--types", nargs="+", default=["f32", "bf16"], choices=["f32", "f16", "bf16"])
    parser.add_argument("--rounds", type=int, default=7, help="how often each takes its turn [default: 7]")
    parser.add_argument("--repetitions", type=int, default=3, help="in a turn [default: 3]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every rival [default: all]")
    parser.add_argument(
        "--fresh", action="store_true", help="a packing never seen before at every repetition"
    )
    parser.add_argument("--torch-only", action="store_true", help="leave out candle and burn, which are slow")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the measurements")
    options = parser.parse_args()
    for name in ("rounds", "repetitions", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least 1")
    known = {workload["name"]: workload for workload in json.loads(WORKLOADS.read_text())["cpu"]}
    unknown = [name for name in options.workloads or [] if name not in known]
    if unknown:
        parser.error(f"there is no workload {unknown[0]}, expected some of {', '.join(known)}")
    options.workloads = [known[name] for name in options.workloads or known]
    return options


def header(rivals, options):
    """What a file says beside its measurements."""
    changes = tool("git", "status", "--porcelain", "--untracked-files=no", ":/core", ":/device-cpu", ":/src")
    return {
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(options.threads),
        "versions": {
            **{rival.label: rival.hello["version"] for rival in rivals},
            "commit": tool("git", "rev-parse", "--short", "HEAD"),
            "uncommitted_changes": bool(changes),
            "rustc": tool("rustc", "--version"),
            "python": platform.python_version(),
        },
        "rounds": options.rounds,
        "repetitions": options.repetitions,
        "fresh": options.fresh,
        "measurements": [],
    }


def main():
    options = arguments()
    rivals = start(options.threads, not options.torch_only)
    report = header(rivals, options)
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
