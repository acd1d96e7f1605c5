"""Medians to ratios and a table."""


def best(rows, label, key):
    values = [row[key] for row in rows if row["rival"] == label and row[key]]
    return max(values, default=None)


def ratios(rows):
    """microseq's GFLOP/s over the best way of each rival: both passes, and forward alone."""
    found = {}
    for label in dict.fromkeys(row["rival"] for row in rows if row["rival"] != "microseq"):
        for key in ("total_gflops", "forward_gflops"):
            ours, theirs = best(rows, "microseq", key), best(rows, label, key)
            if ours and theirs:
                found.setdefault(label, {})[key] = ours / theirs
    return found


def table(measurement):
    def number(value):
        return f"{value:8.1f}" if value else "       -"

    peak = measurement["peak_gflops"]
    what = f"{measurement['workload']} {measurement['type']}"
    yield f"{what}  (peak {peak:.0f}, {measurement['peak_instruction']})"
    yield f"  {'':28} {'forward':>8} {'backward':>8} {'both':>8}   microseq is"
    ours = best(measurement["rows"], "microseq", "total_gflops")
    ours_forward = best(measurement["rows"], "microseq", "forward_gflops")
    for row in measurement["rows"]:
        columns = [number(row[key]) for key in ("forward_gflops", "backward_gflops", "total_gflops")]
        total = row["total_gflops"]
        ratio = ours / total if total else ours_forward / row["forward_gflops"]
        alone = "" if total else " (forward alone)"
        verdict = "" if row["rival"] == "microseq" else f"{ratio:6.2f} x{alone}"
        yield f"  {row['rival'] + ' ' + row['way']:28} {' '.join(columns)}   {verdict}"
