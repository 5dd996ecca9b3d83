"""What fits a device: asked only when something did not."""

from collections.abc import Callable

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def largest_that_fits(attempt: Callable[[int], object], too_large: int) -> int:
    """The largest size below `too_large` that `attempt` survives, by trying; 0 if not even one does."""
    low, high = 0, too_large
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(middle)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            fits = False
        else:
            fits = True
        # Out of the `except` block, whose frames hold what was allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        low, high = (middle, high) if fits else (low, middle)
    return low
