"""The lists of the kernels for compute capability 9.0, as src/schedule/ makes them.

    python3 lists_sm90.py          print the lists of some problems
    python3 lists_sm90.py --check  compare them with lists_sm90.txt, with which a test of the crate compares its own
"""

import heapq
import itertools
import pathlib
import sys
import types

from documents import NO_WINDOW, step_documents, visible, zeroed_rows

MANY_HEADS = 8  # with fewer K/V heads walks are cut
PIECES_APART = 16  # so many for a block do not wait for each other
CACHE = 48 << 20


def part_of(kv_heads, window):
    """Query tiles that add up their dk and dv before these are added to the store, where that is so."""
    return min(16 * (kv_heads + 1), 64) if kv_heads < MANY_HEADS or window != NO_WINDOW else None


def key_tiles(document, tokens, causal, window, keys, number, from_zero):
    """A document's KeyTiles, ascending; `number` is its first query tile's."""
    query_row, q, key_row, k = document
    offset = k - q
    first_tile, last_tile = offset // tokens, (k - 1) // tokens
    # The first tile whose first query is at `position` or behind it.
    tile_from = lambda position: first_tile if offset >= position else -(-min(position, k) // tokens)
    low, high = visible(offset, k, causal, window)[0], visible(k - 1, k, causal, window)[1]
    tiles = []
    for key in range(low // keys * keys, max(high, 0), keys):
        begin = max(first_tile, key // tokens) if causal else first_tile
        end = min(last_tile, (key + keys - 1 + window - 1) // tokens) + 1
        first = (first_tile if key < keys else tile_from(key + window - 1)), tile_from(key + keys + window - 1)
        last_end = 2**31 - 1 if key + keys >= k else (key + keys) // tokens if causal else first_tile
        whole, seen = [], []
        for a in range(key, key + keys, keys // 2):
            b = a + keys // 2
            seen.append((max(first_tile, a // tokens) if causal else first_tile) if a < k else end)
            if b > k:
                whole.append((0, 0))
                continue
            whole.append((max(first_tile, -(-(b - 1) // tokens)) if causal else first_tile,
                          min(last_tile + 1, (a + window) // tokens) if a + window - 1 < k else last_tile + 1))
        tiles.append((end - begin, key_row + key, k - key, key, query_row - offset, query_row, query_row + q,
                      begin, end, *first, last_end, *(w[0] for w in whole), *(w[1] for w in whole),
                      *seen, int(from_zero), number - first_tile))
    return tiles


class Cut:
    """How walks are cut into parts of `part` query tiles, and in which order these are begun. `apart`: they do not wait
    for each other, and their sums are added to the store later, by `add_parts`."""

    def __init__(self, kv_heads, window, shape):
        self.part, self.apart, self.few = part_of(kv_heads, window), False, kv_heads < MANY_HEADS
        self.band = max(1, CACHE // (shape.b_rows * shape.dim * 8 * kv_heads) // (self.part or 1))

    def bounds(self, begin, end):
        inner = range((begin // self.part + 1) * self.part, end, self.part) if self.part else ()
        return [begin, *inner, end]

    def order(self, walk, begin):
        """Of pieces; of equal ones the last query tiles come first."""
        if not self.part:
            return (walk,)
        part = begin // self.part
        if not self.few:
            return -part, walk
        return -(part // self.band), walk if self.apart else walk - part


def pieces_of(tiles, cut, walks, parts):
    """A document's pieces, and what `add_parts` shall add. Counters of walks begin at `walks`, numbers of parts at
    `parts`."""
    pieces, sums = [], []
    for i, tile in enumerate(tiles):
        bounds = cut.bounds(tile[7], tile[8])
        count = len(bounds) - 1  # of parts, of which the first begins with the last tiles
        left = count - 1 if cut.apart else 0
        if left:
            sums.append((tile[1], tile[2], parts, left))
        for at, (a, b) in enumerate(zip(bounds, bounds[1:])):
            *masks, from_zero, number = tile[9:]
            masks[-2:] = [min(max(t, a), b) for t in masks[-2:]]  # from where halves are seen
            before = count - 1 - at
            turn = (before, count - left - 1 - before, 1, -1) if at >= left else (0, 0, 0, parts + left - 1 - at)
            if not cut.part:
                turn = 0, 0, 0, -1
            more = *masks, int(from_zero or bool(cut.part)), number, walks + i, *turn
            pieces.append((cut.order(i, a), -a, (b - a, *tile[1:7], a, b, *more)))
        parts += left
    pieces = [p[2] for p in sorted(pieces)]
    # A piece weighs at least as much as those behind it: sorting by weight keeps them behind it.
    for i in reversed(range(len(pieces) - 1)):
        pieces[i] = (max(pieces[i][0], pieces[i + 1][0]), *pieces[i][1:])
    return pieces, sums


def lists(documents, group, kv_heads, causal, window, shape, zeroed_rows, blocks):
    """Query tiles, key tiles in order, stats tiles, what `add_parts` adds; how many query tiles and counters there are.
    The first `zeroed_rows` of the gradient store hold zeros."""
    queries, keys, stats, number = [], [], [], 0
    tokens_f, tokens = shape.q_rows // group, shape.b_rows // group
    for query_row, q, key_row, k in documents:
        for begin in range(0, q, tokens_f):
            last = min(begin + tokens_f, q) - 1
            low = visible(begin + k - q, k, causal, window)[0]
            high = visible(last + k - q, k, causal, window)[1]
            queries.append((max(high - low, 0), query_row, q, key_row, k, begin * group, 0))
        if q == 0:
            continue
        first, last = (k - q) // tokens, (k - 1) // tokens
        for t in range(first, last + 1):
            stats.append((0, query_row, q, key_row, k, t, number + t - first))
        keys.append(key_tiles((query_row, q, key_row, k), tokens, causal, window, shape.b_keys, number,
                              key_row + k <= zeroed_rows))
        number += last - first + 1
    cut = Cut(kv_heads, window, shape)
    count = sum(len(cut.bounds(tile[7], tile[8])) - 1 for tiles in keys for tile in tiles)
    cut.apart = cut.few and count * kv_heads <= PIECES_APART * blocks
    counters, sums = number, []
    for i, tiles in enumerate(keys):
        keys[i], more = pieces_of(tiles, cut, counters, sum(s[3] for s in sums))
        sums += more
        counters += len(tiles)
    return queries, in_order(keys, kv_heads, blocks), stats, sums, number, counters


def in_order(documents, kv_heads, blocks):
    """A document's tiles together, so that its dq sums stay in the L2 cache; what every multiprocessor
    does last, longest first."""
    documents.sort(key=lambda mine: -sum(m[0] for m in mine))
    tiles = [m for mine in documents for m in mine]
    tail = max(0, len(tiles) - -(-2 * blocks // kv_heads))
    return [m[1:] for m in [*tiles[:tail], *sorted(tiles[tail:], key=lambda m: -m[0])]]


def share_out(costs, heads, blocks):
    """Pieces, tiles times heads, each to the block that has least to do: begins of each block's, and the pieces."""
    least, shares = [(0, block) for block in range(blocks)], [[] for _ in range(blocks)]
    for piece in range(len(costs) * heads):
        busy, block = least[0]
        shares[block].append(piece)
        heapq.heapreplace(least, (busy + costs[piece // heads], block))
    begins = itertools.accumulate(map(len, shares), initial=0)
    return [*begins, *itertools.chain(*shares)]


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
]


def lines():
    for heads, kv_heads, head_dim, causal, window, micro, blocks, zeroed, lengths in PROBLEMS:
        yield f"problem {heads} {kv_heads} {head_dim} {causal} {window or 0} {micro} {blocks} {zeroed} {lengths}"
        shape = types.SimpleNamespace(q_rows=128, b_rows=64, b_keys=128 if head_dim <= 128 else 64, dim=head_dim)
        tokens = sum(lengths)
        for begin in range(0, tokens, micro):
            end = min(begin + micro, tokens)
            documents, _ = step_documents(lengths, begin, end)
            _, keys, _, sums, _, counters = lists(
                documents, heads // kv_heads, kv_heads, causal, window or NO_WINDOW, shape,
                zeroed_rows(lengths, begin, end) if zeroed else 0, blocks)
            yield f"step {counters}"
            yield from (" ".join(map(str, ("tile", *tile))) for tile in keys)
            yield from (" ".join(map(str, ("sums", *of_walk))) for of_walk in sums)


def main():
    text = "".join(f"{line}\n" for line in lines())
    if sys.argv[1:] != ["--check"]:
        sys.stdout.write(text)
    elif pathlib.Path(__file__).with_suffix(".txt").read_text() != text:
        sys.exit("lists_sm90.txt is not what lists_sm90.py prints: python3 lists_sm90.py > lists_sm90.txt")
    else:
        print(f"{len(PROBLEMS)} problems have the lists that are kept")


if __name__ == "__main__":
    main()
