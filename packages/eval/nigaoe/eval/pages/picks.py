"""The best, the middle and the worst samples of each tested cell, beside what the other systems made of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nigaoe.core.reports import Report
from nigaoe.eval.pages.grid import picture_of
from nigaoe.eval.pages.systems import baseline_cells, identity_metric, is_ceiling, metric_of, tested_cells
from nigaoe.eval.pages.wording import figure
from nigaoe.eval.protocols.protocol import Column
from nigaoe.eval.running.gallery import Gallery
from nigaoe.eval.running.tables import SampleTable

Place = Literal["best", "median", "worst"]

_EACH = 2
"""Rows of each place."""


@dataclass(frozen=True)
class Tile:
    """One system's picture of a sample, and its figure."""

    picture: bytes | None
    figure: str


@dataclass(frozen=True)
class PickedRow:
    """One sample."""

    place: Place
    sample: str
    tiles: list[Tile]


@dataclass(frozen=True)
class Picks:
    """Samples picked by one cell's figures."""

    title: str
    name: str
    columns: list[Column]
    rows: list[PickedRow]
    n: int
    """Samples to pick among: those with a thumbnail and a figure."""


def picked_metric(report: Report, tables: Mapping[str, SampleTable]) -> str | None:
    """What samples are picked by; None where nothing that was tested has it."""
    named = {name: None for cell in tested_cells(report) if cell in tables for name in tables[cell].names}
    ordered = [name for name in report.metrics if name in named]
    return identity_metric(ordered or named)


def picks_by(
    metric: str, report: Report, columns: Sequence[Column], tables: Mapping[str, SampleTable], gallery: Gallery
) -> list[Picks]:
    """A grid for every tested cell with samples enough."""
    shown = _columns(report, columns)
    is_share, higher = metric_of(report, metric).is_share, metric_of(report, metric).higher_is_better is not False
    figures = {name: _figures(table, metric) for name, table in tables.items()}
    found = []
    for name in tested_cells(report):
        there = gallery.pictures.get(name, {})
        known = {s: value for s, value in figures.get(name, {}).items() if s in there and s in gallery.references}
        rows = [
            PickedRow(place, sample, [_tile(gallery, column, sample, figures, is_share) for column in shown])
            for place, sample in picked(known, higher)
        ]
        if rows:
            found.append(Picks(report.cell(name).title, name, shown, rows, len(known)))
    return found


def picked(figures: Mapping[str, float], higher_is_better: bool = True, each: int = _EACH) -> list[tuple[Place, str]]:
    """Samples from best to worst, as many of each place; none twice, and equal figures in the order of their ids."""
    sign = -1.0 if higher_is_better else 1.0
    order = sorted(figures, key=lambda sample: (sign * figures[sample], sample))
    count = min(each, len(order) // 3)
    if count == 0:
        return []
    middle = (len(order) - count) // 2
    best, median, worst = order[:count], order[middle : middle + count], order[-count:]
    return [*(("best", s) for s in best), *(("median", s) for s in median), *(("worst", s) for s in worst)]


def _figures(table: SampleTable, metric: str) -> dict[str, float]:
    if metric not in table.columns:
        return {}
    values = zip(table.ids, table.columns[metric], strict=True)
    return {sample: float(value) for sample, value in values if math.isfinite(value)}


def _columns(report: Report, columns: Sequence[Column]) -> list[Column]:
    """References, every system that was compared, and the ceilings of the first grid."""
    titles = {column.cell: column.title for column in columns}
    compared = {*tested_cells(report), *baseline_cells(report)}
    systems = [Column(titles.get(c.name, c.title), c.name) for c in report.cells if c.name in compared]
    ceilings = {cell.name for cell in report.cells if is_ceiling(cell)}
    ends = [column for column in columns if column.cell in ceilings and column.cell not in compared]
    return [Column(titles.get(None, "Reference"), None), *systems, *ends]


def _tile(
    gallery: Gallery, column: Column, sample: str, figures: Mapping[str, Mapping[str, float]], is_share: bool
) -> Tile:
    value = None if column.cell is None else figures.get(column.cell, {}).get(sample)
    return Tile(picture_of(gallery, column, sample), "" if value is None else figure(value, is_share))
