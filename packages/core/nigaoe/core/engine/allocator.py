"""Memory between two UNet calls on the CPU."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next call will want as much again. On Linux with glibc only.

    Otherwise glibc hands large blocks back to the kernel after every call and gets them again page by page: with 32
    rows of the toy base 13,000 page faults a call, 25 ms of 140.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
            mallopt(parameter, value)
