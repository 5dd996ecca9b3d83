"""The report as a page that needs nothing but itself, and its picture grid."""

from dataclasses import dataclass
from pathlib import Path

from nigaoe.core.atomic import write_whole
from nigaoe.core.pages import data_uri, render_page
from nigaoe.core.reports import Cell, Estimate, Report
from nigaoe.eval.grid import collect_grid, grid_png
from nigaoe.eval.headlines import figure, headline_texts, interval
from nigaoe.eval.plan import Plan
from nigaoe.eval.summary import Results

_TEMPLATE = "report.html.j2"
_ATTRIBUTE = "attribute."
_SHARES = ("judged_anime", "background_copied", "background_chance", "background_red")
_TITLES = {
    "judged_anime": "judged anime",
    "background_copied": "background copied",
    "background_chance": "… by chance",
    "background_copy_ratio": "… over chance",
    "background_red": "background red",
    "clip_t": "CLIP-T",
    "clip_i": "CLIP-I",
    "clip_i_shuffled": "CLIP-I, wrong person",
    "fd_judge": "FD judge",
    "fd_clip": "FD CLIP",
}


@dataclass(frozen=True)
class Figure:
    """A table's cell: a figure and its interval in words."""

    text: str
    interval: str
    share: float | None
    """0 to 1, for its tint."""


@dataclass(frozen=True)
class TableRow:
    """A table's row: one cell of the evaluation."""

    title: str
    name: str
    is_ceiling: bool
    figures: list[Figure | None]


@dataclass(frozen=True)
class Table:
    """Some metrics of every cell."""

    columns: list[str]
    rows: list[TableRow]


def write_page(out: Path, plan: Plan, report: Report, results: Results) -> None:
    """Write `report.html` and `grid.png`."""
    grid = collect_grid(plan, results)
    write_whole(out / "grid.png", grid_png(grid))
    html = render_page(
        Path(__file__).parent / _TEMPLATE,
        report=report,
        columns=[column.title for column in grid.columns],
        pictures=[[data_uri(png) for png in row] for row in grid.rows],
        caption=plan.protocol.grid_caption(),
        headlines=headline_texts(plan.protocol.headlines(), report),
        tables=[table for table in (attribute_table(report), other_table(report)) if table.columns],
        titles={cell.name: cell.title for cell in report.cells},
    )
    write_whole(out / "report.html", html.encode())


def attribute_table(report: Report) -> Table:
    """Accuracy of each attribute, the mean first."""
    names = [name for name in report.cells[0].metrics if name.startswith(_ATTRIBUTE)]
    names.sort(key=lambda name: name != f"{_ATTRIBUTE}mean")
    titles = [name.removeprefix(_ATTRIBUTE).replace("_", " ") for name in names]
    return Table(titles, [_row(cell, names) for cell in report.cells])


def other_table(report: Report) -> Table:
    """Everything that is no attribute."""
    names = [name for name in report.cells[0].metrics if not name.startswith(_ATTRIBUTE)]
    return Table([_TITLES.get(name, name) for name in names], [_row(cell, names) for cell in report.cells])


def _row(cell: Cell, names: list[str]) -> TableRow:
    figures = [_figure(name, cell.metrics[name]) if name in cell.metrics else None for name in names]
    return TableRow(cell.title, cell.name, cell.base is None, figures)


def _figure(name: str, estimate: Estimate) -> Figure:
    is_share = name.startswith(_ATTRIBUTE) or name in _SHARES
    text = figure(estimate.value, is_share).removesuffix("\N{NO-BREAK SPACE}%")
    share = estimate.value if name.startswith(_ATTRIBUTE) else None
    return Figure(text, interval(estimate, is_share), share)
