"""Round numbers for the axes of charts, and how to write them."""

import math
from collections.abc import Sequence


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers, one or two of them a little beyond the range, so that all of it lies between."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def step_label(step: float) -> str:
    """1500 as 1.5k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{letter}"
    return f"{step:g}"


def plain(value: float) -> str:
    """Three digits that matter."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def tick_label(value: float, values: Sequence[float]) -> str:
    """A tick's value, written like its neighbours."""
    size = max(map(abs, values))
    if value == 0:
        return "0"
    if size < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-")
    return step_label(value) if size >= 1e4 else f"{value:g}"
