"""Latencies of a load test as one SVG: what share of the requests was answered within how many seconds."""

import math
from collections.abc import Sequence
from html import escape

from nigaoe.serve.loadtest.results import LoadResult

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 620, 40, 316
"""Edges of the plot in it."""
COLOURS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8a5fbf", "#b8860b", "#5c6b73")
MOST_POINTS = 400


def latency_plot(result: LoadResult, title: str | None = None) -> str:
    """Draw one line for each kind of request, on a logarithmic axis of seconds."""
    series = {name: sorted(seconds for _, seconds in points) for name, points in result.latencies.items() if points}
    low, high = _decades([value for values in series.values() for value in values])
    if title is None:
        title = f"{result.images_per_s:.3g} images/s, {result.total.requests} requests, {_failed(result)} failed"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12">',
        "<style>text{font-family:sans-serif}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 0.95, 1):
        y = BOTTOM - (BOTTOM - TOP) * share
        parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for tick in _ticks(low, high):
        x = _x(tick, low, high)
        parts.append(f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{tick:g} s</text>')
    for place, (name, values) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        parts.append(f'<path d="{_steps(values, low, high)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend = escape(f"{name} ({len(values)})")
        y = TOP + 16 + 16 * place
        # On the left, where no curve has risen yet.
        parts.append(f'<text x="{LEFT + 8}" y="{y}" fill="{colour}">{legend}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">answered within</text>')
    return "\n".join([*parts, "</svg>\n"])


def _steps(values: Sequence[float], low: float, high: float) -> str:
    stride = math.ceil(len(values) / MOST_POINTS)
    places = sorted({*range(0, len(values), stride), len(values) - 1})
    path = f"M{_x(values[0], low, high):.1f} {BOTTOM}"
    for place in places:
        y = BOTTOM - (BOTTOM - TOP) * (place + 1) / len(values)
        path += f"H{_x(values[place], low, high):.1f}V{y:.1f}"
    return path


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (RIGHT - LEFT) * (math.log10(max(value, low)) - math.log10(low)) / math.log10(high / low)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    positive = [value for value in values if value > 0] or [0.1, 1.0]
    low = 10.0 ** math.floor(math.log10(min(positive)))
    high = 10.0 ** math.ceil(math.log10(max(positive)) + 1e-9)
    return low, max(high, 10 * low)


def _ticks(low: float, high: float) -> list[float]:
    decades = round(math.log10(high / low))
    factors = (1, 2, 5) if decades <= 3 else (1,)
    ticks = [low * 10.0**decade * factor for decade in range(decades) for factor in factors]
    return [*ticks, high]


def _failed(result: LoadResult) -> int:
    return result.total.requests - result.total.succeeded
