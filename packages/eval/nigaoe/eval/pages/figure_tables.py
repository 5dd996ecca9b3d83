"""Tables of all figures: cells down, metrics across."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nigaoe.core.reports import Cell, Metric, Report
from nigaoe.eval.pages.systems import is_ceiling, metric_of
from nigaoe.eval.pages.wording import Style

_ATTRIBUTE = "attribute."
_DISTRIBUTION = ("fd_", "kd_", "fid", "kid", "precision", "recall", "density", "coverage", "cmmd")
_LIKENESS = ("face_", "ssim", "ms_ssim", "lpips")
_ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}", None: ""}


@dataclass(frozen=True)
class Head:
    """A column's title, and which way is better."""

    title: str
    name: str
    arrow: str
    unit: str = ""


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
    """Some metrics of every cell that has one of them."""

    title: str
    words: str
    heads: list[Head]
    rows: list[TableRow]


def figure_tables(report: Report) -> list[Table]:
    """Attributes, other likeness, style and prompt, distributions; a table without a figure is left out."""
    tables = [
        _table(
            report,
            "Is it the same person?",
            "Percent of pictures in which the judge sees the reference's attribute, with the 95 % interval below. "
            "The judge is a classifier that took no part in training; what it makes of real pictures is the ceiling. "
            "A base without an adapter knows nothing of the reference: its rows show what guessing gives.",
            _is_attribute,
        ),
        _table(
            report,
            "Is it like the reference?",
            "What networks make of a picture beside its reference; cosines are raw. Faces by name of the face encoder.",
            _is_likeness,
        ),
        _table(
            report,
            "Style, background and prompt",
            "Shares in percent, CLIP-T a raw cosine of picture and prompt.",
            lambda name: not (_is_attribute(name) or _is_likeness(name) or is_distribution(name)),
        ),
        *(_distributions(report, network) for network in _networks(report)),
    ]
    return [table for table in tables if table is not None]


def _networks(report: Report) -> list[str]:
    """What distributions are seen through, in the order of the report."""
    named = [name for name in metric_names(report, report.cells) if is_distribution(name)]
    return list(dict.fromkeys(_network_of(report, name) for name in named))


def _network_of(report: Report, name: str) -> str:
    return metric_of(report, name).setting.partition(" ")[0]


def _distributions(report: Report, network: str) -> Table | None:
    table = _table(
        report,
        f"Distributions, through {network}" if network else "Distributions",
        "How far the pictures, as a crowd, are from real ones. Italic rows show what so many real pictures reach; "
        "distances fall with the number of samples, so compare cells of equal n alone.",
        lambda name: is_distribution(name) and _network_of(report, name) == network,
    )
    if table is None:
        return None
    heads = [replace(head, title=head.title.removesuffix(f" ({network})")) for head in table.heads]
    return replace(table, heads=heads)


def is_distribution(name: str) -> bool:
    """Whether a metric is one of all samples together."""
    return name.startswith(_DISTRIBUTION)


def head_of(name: str, metric: Metric, unit: str = "") -> Head:
    """A metric as a column."""
    return Head(metric.title, name, _ARROWS[metric.higher_is_better], unit)


def column_styles(report: Report, names: Sequence[str]) -> dict[str, Style]:
    """How each metric's figures are written."""
    return {
        name: Style.of(metric_of(report, name).is_share, [c.metrics[name] for c in report.cells if name in c.metrics])
        for name in names
    }


def metric_names(report: Report, cells: Sequence[Cell]) -> list[str]:
    """Of all figures that some of the cells have, in the order of the report."""
    named = dict.fromkeys((*report.metrics, *(name for cell in cells for name in cell.metrics)))
    return [name for name in named if any(name in cell.metrics for cell in cells)]


def _table(report: Report, title: str, words: str, belongs: Callable[[str], bool]) -> Table | None:
    names = [name for name in metric_names(report, report.cells) if belongs(name)]
    if not names:
        return None
    names.sort(key=lambda name: name != f"{_ATTRIBUTE}mean")
    metrics = {name: metric_of(report, name) for name in names}
    styles = column_styles(report, names)
    cells = [cell for cell in report.cells if any(name in cell.metrics for name in names)]
    rows = [
        TableRow(
            cell.title,
            cell.name,
            is_ceiling(cell),
            [_figure(cell, name, metrics[name], styles[name]) for name in names],
        )
        for cell in cells
    ]
    rows.sort(key=lambda row: not row.is_ceiling)
    return Table(title, words, [head_of(name, metric, _unit(metric)) for name, metric in metrics.items()], rows)


def _figure(cell: Cell, name: str, metric: Metric, style: Style) -> Figure | None:
    if name not in cell.metrics:
        return None
    estimate = cell.metrics[name]
    share = estimate.value if metric.is_share and metric.higher_is_better else None
    return Figure(style.bare(estimate.value), style.interval(estimate), share)


def _unit(metric: Metric) -> str:
    return "%" if metric.is_share else ""


def _is_attribute(name: str) -> bool:
    return name.startswith(_ATTRIBUTE)


def _is_likeness(name: str) -> bool:
    return name.startswith(_LIKENESS) or name.endswith("_i")
