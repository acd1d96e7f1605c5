#!/usr/bin/env python3
"""Draws the chart of a file that compare.py measured: chart.py MEASURED.json CHART.svg

A bar is a rival's best way, forward plus backward. Rivals without a gradient have no bar.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402 (the backend comes first)

LABELS = {
    "microseq": "microseq",
    "torch+avx512": "PyTorch, MKL made to use AVX-512",
    "torch": "PyTorch as it comes",
    "candle": "candle",
    "burn": "burn",
}
COLOURS = {
    "microseq": "#0b6e4f",
    "torch+avx512": "#d1495b",
    "torch": "#e8a0a8",
    "candle": "#7d8597",
    "burn": "#b8bec9",
}


def best(measurement, rival):
    totals = [row["total_gflops"] or 0 for row in measurement["rows"] if row["rival"] == rival]
    return max(totals, default=0)


def panel(axes, measurements, dtype):
    measured = [m for m in measurements if m["type"] == dtype]
    rivals = [rival for rival in LABELS if any(best(m, rival) for m in measured)]
    width = 0.8 / len(rivals)
    for n, rival in enumerate(rivals):
        places = [at - 0.4 + (n + 0.5) * width for at in range(len(measured))]
        heights = [best(m, rival) for m in measured]
        bars = axes.bar(places, heights, width * 0.92, label=LABELS[rival], color=COLOURS[rival])
        axes.bar_label(bars, [f"{height:.0f}" if height else "" for height in heights], fontsize=7)
    for at, m in enumerate(measured):
        axes.hlines(
            m["peak_gflops"], at - 0.42, at + 0.42, colors="#333333", linestyles="dotted", linewidth=1
        )
    axes.set_xticks(range(len(measured)), [m["workload"] for m in measured], fontsize=8)
    axes.set_title(f"{dtype}; dotted: peak of {measured[0]['peak_instruction']}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("GFLOP/s, forward and backward", fontsize=8)


def legend(panels):
    """One entry for each rival, whichever panels it is in."""
    handles, labels = zip(*(axes.get_legend_handles_labels() for axes in panels[:, 0]))
    entries = dict(zip(sum(labels, []), sum(handles, [])))
    return list(entries.values()), list(entries)


def draw(report, path):
    types = list(dict.fromkeys(m["type"] for m in report["measurements"]))
    # Text stays text, and the same file gives the same bytes.
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "microseq", "font.family": "sans-serif"}
    )
    figure, panels = pyplot.subplots(len(types), 1, figsize=(9, 3.2 * len(types)), squeeze=False)
    for axes, dtype in zip(panels[:, 0], types):
        panel(axes, report["measurements"], dtype)
    machine, versions = report["machine"], report["versions"]
    packing = "a fresh packing each time" if report["fresh"] else "one packing"
    place = f"{machine['cpu']}, {machine['threads']} threads"
    caption = [place, f"PyTorch {versions['torch']}", packing, report["measured"][:10]]
    figure.supxlabel("; ".join(caption), fontsize=7)
    figure.legend(*legend(panels), fontsize=8, frameon=False, ncols=3, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.14 / len(types)))
    figure.savefig(path, metadata={"Date": None})


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2])


if __name__ == "__main__":
    main()
