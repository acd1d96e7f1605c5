"""The lists of the kernels for every GPU, as src/schedule/mod.rs makes them."""

import itertools

from documents import NO_WINDOW, visible
from order import cuts_of, pieces


def walk_cuts(group, kv_heads, tile_rows):
    """Where walks are cut, or None."""
    return cuts_of(kv_heads, NO_WINDOW, tile_rows) if tile_rows % group == 0 else None


def part(walk, begin, end, before, _):
    """The part of a walk that meets these query tiles."""
    return *walk[:6], begin, end, walk[8], before


def query_tiles(documents, group, causal, window, tile_rows):
    """How many keys each tile sees, and the Tile."""
    for query_row, q, key_row, k in documents:
        rows = q * group
        for begin in range(0, rows, tile_rows):
            last = min(begin + tile_rows, rows) - 1
            low = visible(begin // group + k - q, k, causal, window)[0]
            high = visible(last // group + k - q, k, causal, window)[1]
            yield max(high - low, 0), query_row, q, key_row, k, begin, 0


def walks_of(document, group, causal, window, tile_rows, tile_keys, first_turn):
    """A document's whole Walks, keys ascending, and how many query tiles it has."""
    query_row, q, key_row, k = document
    low = visible(k - q, k, causal, window)[0]
    high = visible(k - 1, k, causal, window)[1]
    if q == 0 or high <= low:
        return [], 0
    shift = (k - q) * group
    first, last = shift // tile_rows, (shift + q * group - 1) // tile_rows
    walks = []
    for begin in range(low // tile_keys * tile_keys, high, tile_keys):
        a = max(first, begin * group // tile_rows) if causal else first
        b = min(last, ((begin + tile_keys - 1 + window) * group - 1) // tile_rows)
        walks.append((query_row, q, key_row, k, begin, first_turn, a, b + 1, -1, 0))
    return walks, last - first + 1


def lists(documents, group, kv_heads, causal, window, shape, cuts, blocks):
    """Query tiles, walks in order, and how many query tiles with turns and how many counters there are. Walks are in
    parts or whole."""
    queries = list(query_tiles(documents, group, causal, window, shape.forward_rows))
    keys, turns = [], 0
    for document in documents:
        walks, tiles = walks_of(document, group, causal, window, shape.rows, shape.keys, turns)
        turns += tiles if len(walks) > 1 else 0
        keys.append(walks)
    counter = itertools.count(turns)
    if cuts:
        keys = [[(*walk[:8], next(counter), 0) for walk in walks] for walks in keys]
    if not shape.mma:  # nobody waits
        walks = sorted((walk for walks in keys for walk in walks), key=lambda walk: walk[6] - walk[7])
    else:
        walks = pieces(keys, cuts, kv_heads, shape.rows * shape.head_dim * 8, blocks, part, -1)
    return queries, walks, turns, next(counter)
