"""Prints the lists of some problems, as the scripts here make them for the kernels.

    python3 lists.py          print them
    python3 lists.py --check  compare them with lists.txt, with which a test of the crate compares its own
"""

import pathlib
import sys
import types

import lists_sm80
import lists_sm90
from documents import NO_WINDOW, step_documents, zeroed_rows

# Heads, K/V heads, head_dim, causal, window, tokens of a step, blocks, whether the store was zeroed, lengths.
PROBLEMS = [
    (8, 1, 128, 1, None, 700, 132, 0, (1000, 300, 7)),
    (8, 1, 128, 1, None, 1300, 1, 1, (1000, 300)),
    (6, 2, 128, 1, 300, 1500, 132, 0, (1400, 100)),
    (6, 2, 128, 0, None, 1100, 1, 0, (1000, 100)),
    (48, 3, 128, 1, None, 700, 2, 1, (650, 300)),
    (64, 8, 128, 1, 200, 900, 132, 0, (800, 500)),
    (32, 8, 128, 1, None, 700, 132, 1, (600, 500)),
    (16, 4, 256, 1, None, 1200, 132, 0, (1200,)),
    # Chains that do not all fit the cache at a time.
    (64, 64, 128, 1, None, 3000, 132, 0, (900, 1500, 600)),
    (64, 32, 128, 1, 400, 2600, 50, 0, (1200, 1400)),
]


def lines():
    for heads, kv_heads, head_dim, causal, window, micro, blocks, zeroed, lengths in PROBLEMS:
        yield f"problem {heads} {kv_heads} {head_dim} {causal} {window or 0} {micro} {blocks} {zeroed} {lengths}"
        group = heads // kv_heads
        hopper = types.SimpleNamespace(q_rows=128, b_rows=64, b_keys=128 if head_dim <= 128 else 64, dim=head_dim)
        every = types.SimpleNamespace(mma=True, forward_rows=128, rows=64, keys=hopper.b_keys, head_dim=head_dim)
        cuts = lists_sm80.walk_cuts(group, kv_heads, every.rows)
        tokens = sum(lengths)
        for begin in range(0, tokens, micro):
            end = min(begin + micro, tokens)
            documents, _ = step_documents(lengths, begin, end)
            what = documents, group, kv_heads, causal, window or NO_WINDOW
            zeros = zeroed_rows(lengths, begin, end) if zeroed else 0
            _, keys, _, _, counters = lists_sm90.lists(*what, hopper, zeros, blocks)
            yield f"step {counters}"
            yield from (" ".join(map(str, ("tile", *tile))) for tile in keys)
            _, walks, turns, counters = lists_sm80.lists(*what, every, cuts, blocks)
            yield f"for every GPU {turns} {counters}"
            yield from (" ".join(map(str, ("walk", *walk))) for walk in walks)


def main():
    text = "".join(f"{line}\n" for line in lines())
    if sys.argv[1:] != ["--check"]:
        sys.stdout.write(text)
    elif pathlib.Path(__file__).with_suffix(".txt").read_text() != text:
        sys.exit("lists.txt is not what lists.py prints: python3 lists.py > lists.txt")
    else:
        print(f"{len(PROBLEMS)} problems have the lists that are kept")


if __name__ == "__main__":
    main()
