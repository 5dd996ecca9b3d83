"""How distances of distributions fall with the number of samples, drawn over 1 / n: a line that ends at infinity."""

from collections.abc import Sequence

from nigaoe.core.reports import Cell, Report
from nigaoe.eval.pages.charts import Axis, Chart, Point, Series, lay_out
from nigaoe.eval.pages.systems import metric_of, tested_cells
from nigaoe.eval.pages.wording import figure

_MOST = 5
"""Curves of a chart: as many as there are colours."""
_SIZE = (340, 230)
_TICK_GAP = 0.14
"""Least distance of two labels as a share of the axis."""


def size_charts(report: Report) -> list[Chart]:
    """Charts for every Frechet distance, one for each base and one for what no base of the run drew."""
    charts = []
    for name in dict.fromkeys(name for cell in report.cells for name in cell.size_curves):
        cells = [cell for cell in _shown(report) if len(cell.size_curves.get(name, [])) > 1]
        for base in dict.fromkeys(cell.base for cell in cells):
            members = [cell for cell in cells if cell.base == base]
            charts += [_chart(report, name, members[i : i + _MOST]) for i in range(0, len(members), _MOST)]
    return charts


def _shown(report: Report) -> list[Cell]:
    """All but the further scales of sweeps, which would hide the rest."""
    tested = tested_cells(report)
    further = {name for sweep in report.sweeps for name in sweep.cells if name not in tested} if tested else set()
    return [cell for cell in report.cells if cell.name not in further]


def _chart(report: Report, name: str, cells: Sequence[Cell]) -> Chart:
    series = list[Series]()
    for colour, cell in enumerate(cells):
        points = [
            Point(1 / point.n, point.distance, words=f"{cell.title}, n = {point.n:,}: {figure(point.distance, False)}")
            for point in sorted(cell.size_curves[name], key=lambda point: point.n)
        ]
        series.append(Series(cell.title, points, "line", colour))
        endless = cell.metrics.get(_endless(name))
        if endless is not None:
            words = f"{cell.title}, endlessly many: {figure(endless.value, False)}"
            ring = Point(0.0, endless.value, words=words)
            series += [Series("", [ring, points[-1]], "dashed", colour), Series("", [ring], "mark", colour)]
    sizes = {point.n for cell in cells for point in cell.size_curves[name]}
    plot = lay_out(series, Axis("samples", _ticks(sizes)), Axis(""), *_SIZE)
    title = f"{metric_of(report, name).title}, {cells[0].base or 'no base of this run'}"
    return Chart(title, {"": plot}, [(one.title, one.kind, one.colour) for one in series if one.kind == "line"])


def _ticks(sizes: set[int]) -> list[tuple[float, str]]:
    """Infinity, the fewest samples, and those between that have room for their label."""
    widest = 1 / min(sizes)
    kept = [(0.0, "\N{INFINITY}"), (widest, f"{min(sizes):,}")]
    for n in sorted(sizes, reverse=True):
        if all(abs(1 / n - x) >= _TICK_GAP * widest for x, _ in kept):
            kept.append((1 / n, f"{n:,}"))
    return sorted(kept)


def _endless(name: str) -> str:
    """`fd_infinity_clip` for `fd_clip`, `fid_infinity` for `fid`."""
    return "fid_infinity" if name == "fid" else f"fd_infinity_{name.removeprefix('fd_')}"
