"""Histograms as bars of an inline SVG."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nigaoe.train.records.histograms import Histogram

WIDTH = 240
HEIGHT = 90
"""Of the bars; labels come below."""
FEWEST_PLACES = 8
"""Bars are never wider than a part of so many."""


@dataclass(frozen=True)
class Bar:
    """One bin."""

    x: float
    y: float
    width: float
    height: float
    title: str
    is_beyond: bool
    """Whether it lies beyond the mark, where the mark is a limit."""


@dataclass(frozen=True)
class Chart:
    """A histogram with its labels, in the units of the SVG."""

    title: str
    subtitle: str
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    mark: tuple[float, str] | None
    top: int
    """Count of the highest bar."""


def chart(
    title: str,
    subtitle: str,
    histogram: Histogram,
    ticks: Sequence[tuple[float, str]] | None = None,
    mark: tuple[float, str] | None = None,
    is_beyond: Callable[[float], bool] = lambda edge: False,
) -> Chart:
    """Lay out a histogram: all bins alike in width; `ticks` and `mark`: values and their labels."""
    top = max(max(histogram.counts), 1)
    width = _bar_width(histogram)
    bars = [
        Bar(
            x=round(i * width, 2),
            # Few are not none: two units can still be seen.
            y=round(HEIGHT - (max(HEIGHT * count / top, 2) if count else 0), 2),
            width=round(max(width - (2 if width > 6 else 0.5), 1), 2),
            height=round(max(HEIGHT * count / top, 2) if count else 0, 2),
            title=f"{_range(low, high, last=i == len(histogram.counts) - 1 and histogram.is_open)}: {count:,}",
            is_beyond=is_beyond(low),
        )
        for i, ((low, high), count) in enumerate(zip(pairwise(histogram.edges), histogram.counts, strict=True))
    ]
    chosen = _plain_ticks(histogram) if ticks is None else ticks
    placed = [(x, label) for value, label in chosen if (x := _place(histogram, value)) is not None]
    where = None if mark is None else _place(histogram, mark[0])
    return Chart(title, subtitle, bars, placed, None if where is None or mark is None else (where, mark[1]), top)


def _range(low: float, high: float, *, last: bool) -> str:
    if last:
        return f"{low:.4g} and more"
    whole = low.is_integer() and high.is_integer()
    if whole and high - low == 1:
        return f"{low:.0f}"
    return f"{low:.0f} to {high - 1:.0f}" if whole else f"{low:.3g} to {high:.3g}"


def _plain_ticks(histogram: Histogram) -> list[tuple[float, str]]:
    step = max(1, -(-len(histogram.counts) // 6))
    starts = histogram.edges[:-1:step]
    labels = [f"{edge:.0f}" for edge in starts]
    if histogram.is_open and starts[-1] == histogram.edges[-2]:
        labels[-1] += "+"
    return list(zip(starts, labels, strict=True))


def _place(histogram: Histogram, value: float) -> float | None:
    """Where a value lies, None outside; bins are stretched to one width each."""
    edges = histogram.edges
    if not edges[0] <= value <= edges[-1]:
        return None
    i = min(bisect.bisect_right(edges, value), len(edges) - 1) - 1
    return round(_bar_width(histogram) * (i + (value - edges[i]) / (edges[i + 1] - edges[i])), 2)


def _bar_width(histogram: Histogram) -> float:
    return WIDTH / max(len(histogram.counts), FEWEST_PLACES)
