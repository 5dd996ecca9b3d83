"""The trade-off that people tune by eye: likeness against obedience over the adapter's scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from nigaoe.core.reports import Cell, Estimate, Report, Sweep
from nigaoe.eval.pages.charts import Axis, Chart, Point, Series, lay_out
from nigaoe.eval.pages.figure_tables import Head, column_styles, head_of
from nigaoe.eval.pages.systems import identity_metric, metric_of
from nigaoe.eval.pages.wording import figure

_ACROSS, _UP = "clip_t", "clip_i"
_MOST = 5
"""Curves of a chart: as many as there are colours."""
_SIZES = {"for-wide": (760, 430), "for-narrow": (364, 330)}


@dataclass(frozen=True)
class ScaleRow:
    """One scale; None for no adapter at all."""

    scale: str
    name: str
    figures: list[tuple[str, str]]
    """Figure and interval."""


@dataclass(frozen=True)
class SweepTable:
    """One sweep in figures."""

    title: str
    colour: int
    rows: list[ScaleRow]


@dataclass(frozen=True)
class SweepSection:
    """Curves, and the same in figures."""

    chart: Chart
    heads: list[Head]
    tables: list[SweepTable]


def sweep_sections(report: Report) -> list[SweepSection]:
    """All sweeps in as few charts as colours allow."""
    there = [(sweep, cells) for sweep in report.sweeps if len(cells := _scored(report, sweep)) > 1]
    return [_section(report, there[i : i + _MOST]) for i in range(0, len(there), _MOST)]


def unadapted(report: Report, cell: Cell) -> Cell | None:
    """The same base asked for the same without an adapter."""
    same = [c for c in report.cells if c.adapter is None and c.base is not None and c.base == cell.base]
    return next((c for c in same if c.prompt == cell.prompt and _is_scored(c)), None)


def _section(report: Report, sweeps: Sequence[tuple[Sweep, list[Cell]]]) -> SweepSection:
    names = _metrics(report, [cell for _, cells in sweeps for cell in cells])
    series, tables, seen = list[Series](), list[SweepTable](), set[str]()
    lone: list[Series] = []
    for colour, (sweep, cells) in enumerate(sweeps):
        series.append(Series(sweep.title, [_point(cell, _scale(cell)) for cell in cells], "line", colour))
        rows = [_row(report, cell, _scale(cell), names) for cell in cells]
        without = unadapted(report, cells[0])
        if without is not None:
            rows.insert(0, _row(report, without, "no adapter", names))
            if without.name not in seen:
                lone.append(Series(without.title, [_point(without, "none")], "mark", colour))
            seen.add(without.name)
        tables.append(SweepTable(sweep.title, colour, rows))
    drawn = [*series, *lone]
    axes = Axis(metric_of(report, _ACROSS).title), Axis(metric_of(report, _UP).title)
    plots = {shown: lay_out(drawn, *axes, *size) for shown, size in _SIZES.items()}
    title = f"{axes[1].title} against {axes[0].title}"
    chart = Chart(title, plots, [(one.title, one.kind, one.colour) for one in drawn])
    return SweepSection(chart, [head_of(name, metric_of(report, name)) for name in names], tables)


def _scored(report: Report, sweep: Sweep) -> list[Cell]:
    return [cell for name in sweep.cells if _is_scored(cell := report.cell(name))]


def _is_scored(cell: Cell) -> bool:
    return _ACROSS in cell.metrics and _UP in cell.metrics


def _metrics(report: Report, cells: Sequence[Cell]) -> list[str]:
    identity = identity_metric(name for name in report.metrics if all(name in cell.metrics for cell in cells))
    return list(dict.fromkeys([_UP, _ACROSS, *([identity] if identity else [])]))


def _scale(cell: Cell) -> str:
    return "" if cell.scale is None else f"{cell.scale:g}"


def _point(cell: Cell, label: str) -> Point:
    x, y = cell.metrics[_ACROSS], cell.metrics[_UP]
    words = f"{cell.title}: {figure(x.value, False)}, {figure(y.value, False)}"
    return Point(x.value, y.value, label, words, _interval(x), _interval(y))


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    return None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)


def _row(report: Report, cell: Cell, scale: str, names: Sequence[str]) -> ScaleRow:
    estimates = [(style, cell.metrics.get(name)) for name, style in column_styles(report, names).items()]
    figures = [("", "") if e is None else (style.figure(e.value), style.interval(e)) for style, e in estimates]
    return ScaleRow(scale, cell.name, figures)
