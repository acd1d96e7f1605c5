"""Documents of a step (query_row, queries, key_row, keys) and what their queries see."""

import itertools

NO_WINDOW = 2**31 - 1


def visible(position, keys, causal, window):
    return max(max(position, 0) - window + 1, 0), min(position + 1, keys) if causal else keys


def step_documents(lengths, begin, end):
    """The documents of a step, cut as the plan cuts them, and the step's window [first, end)."""
    bounds = [0]
    for n in lengths:
        bounds.append(bounds[-1] + n)
    touching = [(a, b) for a, b in zip(bounds, bounds[1:]) if min(b, end) > max(a, begin)]
    first = touching[0][0] if touching else begin
    documents = []
    row = 0
    for a, b in touching:
        q0, q1 = max(a, begin), min(b, end)
        documents.append((q0 - begin, q1 - q0, a - first, q1 - a))
        row = q1 - begin
    if row < end - begin:
        documents.append((row, end - begin - row, 0, 0))
    return documents, first


def zeroed_rows(lengths, begin, end):
    """Rows of a step's window that no later step adds to."""
    documents, _ = step_documents(lengths, begin, end)
    goes_on = end not in itertools.accumulate(lengths, initial=0) and end < sum(lengths)
    rows = max((key_row + k for _, _, key_row, k in documents), default=0)
    return documents[-1][2] if goes_on else rows
