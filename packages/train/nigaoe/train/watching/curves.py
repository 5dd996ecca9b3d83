"""Curves over the steps of a run, laid out for an inline SVG."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nigaoe.core.axes import plain, step_label, tick_label, ticks

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 46, 312, 8, 154
"""Edges of the plot in it."""
MOST_POINTS = 300
FEW_POINTS = 40
"""Up to so many are shown as dots, which say their values to who points at them."""

Points = Sequence[tuple[float, float]]
Kind = Literal["plain", "faint", "dashed"]


@dataclass(frozen=True)
class Series:
    """Values by step."""

    label: str
    points: Points
    kind: Kind = "plain"
    """`faint`: raw values behind smoothed ones; they do not widen the axis by their spikes."""


@dataclass(frozen=True)
class Line:
    """A series, laid out."""

    label: str
    kind: Kind
    colour: int
    """A faint line has that of the one it lies behind."""
    path: str
    dots: list[tuple[float, float, str]]
    latest: str
    """Its last value."""


@dataclass(frozen=True)
class Chart:
    """Lines with their axes."""

    title: str
    unit: str
    latest: str
    """Last value, where there is only one line but for faint ones."""
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[float]
    """Where the run was started again."""


def chart(
    title: str, series: Sequence[Series], marks: Sequence[int] = (), *, unit: str = "", from_zero: bool = False
) -> Chart | None:
    """Lay out some series; None where none of them has a value. Values that are no numbers leave no trace."""
    finite = [Series(s.label, [p for p in s.points if math.isfinite(p[1])], s.kind) for s in series]
    shown = [s for s in finite if s.points]
    if not shown:
        return None
    low, high = _range(shown, from_zero)
    y_values = ticks(low, high, 4)
    low, high = min(low, y_values[0]), max(high, y_values[-1])
    last = max(p[0] for s in shown for p in s.points)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * point[0] / max(last, 1)
        y = BOTTOM - (BOTTOM - TOP) * (point[1] - low) / (high - low)
        # A spike reaches the edge and no farther.
        return round(x, 1), round(min(max(y, TOP), BOTTOM), 1)

    solid = [s for s in shown if s.kind != "faint"]
    lines = [_line(s, solid.index(s) if s in solid else 0, place) for s in shown]
    return Chart(
        title,
        unit,
        plain(solid[0].points[-1][1]) if len(solid) == 1 else "",
        lines,
        [(place((x, low))[0], step_label(x)) for x in ticks(0, max(last, 1), 4) if x <= max(last, 1)],
        [(place((0, y))[1], tick_label(y, y_values)) for y in y_values],
        [place((mark, low))[0] for mark in marks if mark <= last],
    )


def _line(series: Series, colour: int, place: Callable[[tuple[float, float]], tuple[float, float]]) -> Line:
    path = "M" + "L".join(f"{x} {y}" for x, y in map(place, thinned(series.points)))
    are_few = series.kind != "faint" and len(series.points) <= FEW_POINTS
    dots = [(*place(point), f"step {point[0]:,.0f}: {plain(point[1])}") for point in series.points if are_few]
    return Line(series.label, series.kind, colour, path, dots, plain(series.points[-1][1]))


def smoothed(points: Points) -> Points:
    """Exponential averages that start at the first value and look back over some thirtieth of the points."""
    rate = min(1.0, 30 / max(len(points), 1))
    averages, average, weight = [], 0.0, 0.0
    for x, y in points:
        if math.isfinite(y):
            average, weight = average + rate * (y - average), weight + rate * (1 - weight)
            averages.append((x, average / weight))
    return averages


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most so many points: the lowest and the highest of each stretch, in their order."""
    if len(points) <= most:
        return points
    length = math.ceil(len(points) / (most // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), length):
        stretch = points[start : start + length]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def _range(series: Iterable[Series], from_zero: bool) -> tuple[float, float]:
    values = []
    for s in series:
        own = sorted(y for _, y in s.points)
        cut = len(own) // 50 if s.kind == "faint" else 0
        values += [own[cut], own[-1 - cut]]
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if size < 1e-30:
        return 0.0, 1.0
    if high - low <= 1e-9 * size:
        # A flat line lies in the middle.
        return low - 0.1 * size, high + 0.1 * size
    return low, high
