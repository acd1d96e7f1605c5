"""A rival's side of the conversation: a line of JSON is asked, a line of JSON answered."""

import json
import sys


def serve(hello, answer):
    """Says what the rival is, then answers requests until there are no more."""
    replies = sys.stdout
    # Whatever a library prints must not come between the answers.
    sys.stdout = sys.stderr
    print(json.dumps(hello), file=replies, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except (RuntimeError, ValueError, KeyError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
