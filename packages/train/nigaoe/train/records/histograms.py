"""Histograms whose bins people can read."""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class Histogram(BaseModel):
    """Counts between edges; what lies beyond the last edge is in the last bin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: list[float]
    """Ascending, one more than counts."""
    counts: list[int]
    is_open: bool
    """Whether the last bin holds what lies beyond it too."""


def histogram(values: Mapping[int, int], bins: int = 24) -> Histogram:
    """Bins of one round width for counted whole numbers; the highest half percent shares the last bin."""
    if not values:
        return Histogram(edges=[0, 1], counts=[0], is_open=False)
    lowest, highest = min(values), _quantile(values, 0.995)
    width = _round_up((highest + 1 - lowest) / bins)
    first = lowest // width
    last = max(first, highest // width)
    counts = [0] * (last - first + 1)
    for value, count in values.items():
        counts[min(value // width - first, len(counts) - 1)] += count
    edges = [float((first + i) * width) for i in range(len(counts) + 1)]
    return Histogram(edges=edges, counts=counts, is_open=max(values) >= edges[-1])


def _quantile(values: Mapping[int, int], share: float) -> int:
    wanted, seen = share * sum(values.values()), 0
    for value in sorted(values):
        seen += values[value]
        if seen >= wanted:
            return value
    return max(values)


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    if width <= 1:
        return 1
    power = 10 ** math.floor(math.log10(width))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= width))
