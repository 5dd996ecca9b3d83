"""What libraries write to stderr from native code, past Python's logging."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_native_lines() -> Iterator[None]:
    """Let nothing of this process through to its stderr for the length of the block.

    Ray's native part says there at which level it logs before it keeps to that level.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
