"""Figures in the plane with whiskers, laid out for an inline SVG."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nigaoe.core.axes import tick_label, ticks

Kind = Literal["line", "mark", "dashed"]
"""Points joined in their order, lone ones, or what joins two without being measured."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in px."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 42
"""Margins in px."""
_LETTER_PX, _LINE_PX = 6.3, 13
"""Of text of 11 px, on the wide side."""
_MARK_PX = 4.0
_DISTANCES = (8, 13, 19, 26)
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))


@dataclass(frozen=True)
class Point:
    """A figure on two axes, with intervals where it has them."""

    x: float
    y: float
    label: str = ""
    words: str = ""
    """Said to who points at it."""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Points of one colour."""

    title: str
    points: Sequence[Point]
    kind: Kind = "line"
    colour: int = 0


@dataclass(frozen=True)
class Axis:
    """What an axis measures; `ticks` where round numbers are not wanted."""

    title: str
    ticks: Sequence[tuple[float, str]] | None = None


@dataclass(frozen=True)
class Mark:
    """A point, laid out."""

    x: float
    y: float
    kind: Kind
    colour: int
    words: str


@dataclass(frozen=True)
class Text:
    """A label whose middle is at x."""

    x: float
    y: float
    text: str
    colour: int


@dataclass
class Plot:
    """An SVG's content."""

    width: int
    height: int
    x_title: str
    y_title: str
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    paths: list[tuple[Kind, int, str]] = field(default_factory=list)
    whiskers: list[tuple[int, str]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    labels: list[Text] = field(default_factory=list)

    @property
    def area(self) -> Box:
        """Where points lie."""
        return _LEFT, _TOP, self.width - _RIGHT, self.height - _BOTTOM


@dataclass(frozen=True)
class Chart:
    """One drawing for wide pages and one for narrow ones, and its legend."""

    title: str
    plots: dict[str, Plot]
    """By the class that shows it."""
    legend: list[tuple[str, Kind, int]]


def lay_out(series: Sequence[Series], x_axis: Axis, y_axis: Axis, width: int, height: int) -> Plot:
    """Place everything. Labels lie beside their points where there is room for them, clear of one another."""
    plot = Plot(width, height, x_axis.title, y_axis.title)
    left, top, right, bottom = plot.area
    points = [point for one in series for point in one.points]
    x_ticks = x_axis.ticks or _round_ticks([v for p in points for v in (p.x, *(p.x_interval or ()))], width // 90)
    y_ticks = y_axis.ticks or _round_ticks([v for p in points for v in (p.y, *(p.y_interval or ()))], height // 60)
    to_x = _scale([x for x, _ in x_ticks], left, right)
    to_y = _scale([y for y, _ in y_ticks], bottom, top)
    plot.x_ticks = [(to_x(x), label) for x, label in x_ticks]
    plot.y_ticks = [(to_y(y), label) for y, label in y_ticks]
    for one in series:
        placed = [(to_x(p.x), to_y(p.y)) for p in one.points]
        if one.kind != "mark" and len(placed) > 1:
            plot.paths.append((one.kind, one.colour, "M" + "L".join(f"{x} {y}" for x, y in placed)))
        if one.kind == "dashed":
            continue
        for p, (x, y) in zip(one.points, placed, strict=True):
            if p.x_interval:
                plot.whiskers.append((one.colour, f"M{to_x(p.x_interval[0])} {y}H{to_x(p.x_interval[1])}"))
            if p.y_interval:
                plot.whiskers.append((one.colour, f"M{x} {to_y(p.y_interval[0])}V{to_y(p.y_interval[1])}"))
            plot.marks.append(Mark(x, y, one.kind, one.colour, p.words))
    plot.labels = _labels(plot, [one for one in series if one.kind != "dashed"], list(_inked(series, to_x, to_y)))
    return plot


def _round_ticks(values: Sequence[float], about: int) -> list[tuple[float, str]]:
    low, high = min(values), max(values)
    # A lone figure lies in the middle.
    margin = 0.1 * max(abs(low), 1e-6) if high - low <= 1e-9 * max(abs(low), abs(high)) else 0.0
    found = ticks(low - margin, high + margin, max(about, 3))
    return [(value, tick_label(value, found)) for value in found]


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    return lambda value: round(start + (end - start) * (value - low) / (high - low), 1)


def _inked(
    series: Sequence[Series], to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> Iterator[tuple[float, float]]:
    """Points along everything that a label should rather not lie on."""
    for one in series:
        placed = [(to_x(p.x), to_y(p.y)) for p in one.points]
        if one.kind != "mark":
            for start, end in zip(placed, placed[1:], strict=False):
                yield from _along(start, end)
        for p, (x, y) in zip(one.points, placed, strict=True):
            if p.x_interval:
                yield from _along((to_x(p.x_interval[0]), y), (to_x(p.x_interval[1]), y))
            if p.y_interval:
                yield from _along((x, to_y(p.y_interval[0])), (x, to_y(p.y_interval[1])))


def _along(start: tuple[float, float], end: tuple[float, float]) -> Iterator[tuple[float, float]]:
    steps = max(1, round(max(abs(end[0] - start[0]), abs(end[1] - start[1])) / 3))
    for i in range(steps + 1):
        yield start[0] + (end[0] - start[0]) * i / steps, start[1] + (end[1] - start[1]) * i / steps


def _labels(plot: Plot, series: Sequence[Series], inked: Sequence[tuple[float, float]]) -> list[Text]:
    taken: list[Box] = [(m.x - _MARK_PX, m.y - _MARK_PX, m.x + _MARK_PX, m.y + _MARK_PX) for m in plot.marks]
    marks = iter(plot.marks)
    found = []
    for point, mark in ((point, next(marks)) for one in series for point in one.points):
        if not point.label:
            continue
        free = [box for box in _around(mark, point.label) if _holds(plot.area, box) and not _hits(box, taken)]
        if not free:
            # Its words and the table beside the chart still say it.
            continue
        box = min(free, key=lambda box: sum(_covers(box, x, y) for x, y in inked))
        taken.append(box)
        found.append(Text(round((box[0] + box[2]) / 2, 1), round(box[3] - 3, 1), point.label, mark.colour))
    return found


def _around(mark: Mark, label: str) -> Iterator[Box]:
    half_width, half_height = len(label) * _LETTER_PX / 2, _LINE_PX / 2
    for distance in _DISTANCES:
        for across, down in _DIRECTIONS:
            # Along a diagonal both parts are shorter.
            reach = distance if 0 in (across, down) else 0.7 * distance
            x, y = mark.x + across * (reach + half_width), mark.y + down * (reach + half_height - 2)
            yield x - half_width, y - half_height, x + half_width, y + half_height


def _holds(outer: Box, box: Box) -> bool:
    return outer[0] <= box[0] and outer[1] <= box[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


def _covers(box: Box, x: float, y: float) -> bool:
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
