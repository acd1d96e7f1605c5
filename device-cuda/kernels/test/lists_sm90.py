"""The lists of the kernels for compute capability 9.0, as src/schedule/wgmma.rs makes them."""

import heapq
import itertools

from documents import visible
from lists_sm80 import query_tiles
from order import cuts_of, pieces

CONTINUED, FROM_ZERO, ADDED = range(3)  # DkvSums


def key_tiles(document, tokens, causal, window, keys, number, sums):
    """A document's KeyTiles, ascending; `number` is its first query tile's. Their walks are not numbered."""
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
        tiles.append((key_row + key, k - key, key, query_row - offset, query_row, query_row + q,
                      begin, end, *first, last_end, *(w[0] for w in whole), *(w[1] for w in whole),
                      *seen, sums, number - first_tile, 0, 0, 0))
    return tiles


def part(walk, begin, end, before, after):
    """The part of a walk that meets these query tiles."""
    seen = (min(max(t, begin), end) for t in walk[15:17])  # from where halves are seen
    return (*walk[:6], begin, end, *walk[8:15], *seen, ADDED, *walk[18:20], before, after)


def lists(documents, group, kv_heads, causal, window, shape, zeroed_rows, blocks):
    """Query tiles, key tiles in order, stats tiles; how many query tiles and counters there are.
    The first `zeroed_rows` of the gradient store hold zeros."""
    queries = list(query_tiles(documents, group, causal, window, shape.q_rows // group * group))
    keys, stats, number, tokens = [], [], 0, shape.b_rows // group
    for query_row, q, key_row, k in documents:
        if q == 0:
            continue
        first, last = (k - q) // tokens, (k - 1) // tokens
        for t in range(first, last + 1):
            stats.append((0, query_row, q, key_row, k, t, number + t - first))
        sums = FROM_ZERO if key_row + k <= zeroed_rows else CONTINUED
        keys.append(key_tiles((query_row, q, key_row, k), tokens, causal, window, shape.b_keys, number, sums))
        number += last - first + 1
    counter = itertools.count(number)
    keys = [[(*tile[:-3], next(counter), 0, 0) for tile in tiles] for tiles in keys]
    cuts = cuts_of(kv_heads, window, shape.b_rows)
    keys = pieces(keys, cuts, kv_heads, shape.b_rows * shape.dim * 8, blocks, part, -2)
    return queries, keys, stats, number, next(counter)


def share_out(costs, heads, blocks):
    """Pieces, tiles times heads, each to the block that has least to do: begins of each block's, and the pieces."""
    least, shares = [(0, block) for block in range(blocks)], [[] for _ in range(blocks)]
    for piece in range(len(costs) * heads):
        busy, block = least[0]
        shares[block].append(piece)
        heapq.heapreplace(least, (busy + costs[piece // heads], block))
    begins = itertools.accumulate(map(len, shares), initial=0)
    return [*begins, *itertools.chain(*shares)]
