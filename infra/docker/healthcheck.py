"""Exit with 0 if this container's Ray node is well, or, where none runs, its `nigaoe serve`."""

import sys
import urllib.request

# Neither needs a token. The first is the agent of every Ray node, the second the server's own.
ADDRESSES = ("http://127.0.0.1:52365/api/local_raylet_healthz", "http://127.0.0.1:8000/healthz")


def answers(address: str) -> bool:
    """Whether an address answers with 200."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        # Of any status but 2xx, too.
        return False


if __name__ == "__main__":
    sys.exit(0 if any(answers(address) for address in ADDRESSES) else 1)
