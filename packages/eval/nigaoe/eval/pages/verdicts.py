"""The verdict table: every system against its baselines, shuffled references among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nigaoe.core.reports import Cell, Comparison, Control, Report
from nigaoe.eval.pages.figure_tables import Head, head_of
from nigaoe.eval.pages.systems import (
    by_importance,
    is_about_words,
    is_principal,
    metric_of,
    sees_reference,
    tested_cells,
)
from nigaoe.eval.pages.wording import NBSP, Style, counted, figure, p_value

Tone = Literal["good", "bad", "soft"]
Word = tuple[str, Tone]

_FEW = 5
"""So many metrics need no choice among them."""


@dataclass(frozen=True)
class Entry:
    """What one metric says."""

    figure: str
    interval: str
    beside: str
    """The test's p, or the control's AUC."""
    word: str
    tone: Tone


@dataclass(frozen=True)
class Line:
    """One baseline."""

    title: str
    name: str
    entries: list[Entry | None]


@dataclass(frozen=True)
class Group:
    """One system against all of its baselines."""

    title: str
    name: str
    beside: str
    lines: list[Line]


@dataclass(frozen=True)
class VerdictTable:
    """Systems and baselines down, metrics across."""

    heads: list[Head]
    groups: list[Group]


def verdict_tables(report: Report) -> tuple[VerdictTable | None, VerdictTable | None]:
    """The metrics that matter most, identity first, and the rest."""
    names = by_importance(dict.fromkeys(c.metric for c in report.comparisons))
    first = names if len(names) <= _FEW else [name for name in names if is_principal(name)][:_FEW] or names[:_FEW]
    return _table(report, first), _table(report, [name for name in names if name not in first])


def control_table(report: Report) -> VerdictTable | None:
    """What mixing up the pairs does to each metric in each cell."""
    names = by_importance(dict.fromkeys(name for cell in report.cells for name in cell.controls))
    styles = _styles(report, names)
    lines = [
        Line(cell.title, cell.name, [_control_entry(cell, name, styles[name]) for name in names])
        for cell in report.cells
        if cell.controls
    ]
    return VerdictTable(_heads(report, names), [Group("", "", "", lines)]) if lines else None


def control_word(cell: Cell, metric: str, control: Control) -> Word:
    """Whether a metric falls as it should; that of a cell without a look at the reference need not."""
    if not control.is_broken:
        return "falls", "good"
    if not sees_reference(cell) and not is_about_words(metric):
        return "need not fall", "soft"
    return "broken", "bad"


def broken_controls(report: Report) -> list[tuple[str, str]]:
    """(cell, metric) of controls that should have fallen."""
    return [
        (cell.name, name)
        for cell in report.cells
        for name, control in cell.controls.items()
        if control_word(cell, name, control)[0] == "broken"
    ]


def _table(report: Report, names: Sequence[str]) -> VerdictTable | None:
    if not names:
        return None
    groups = [_group(report, report.cell(name), names) for name in tested_cells(report)]
    groups = [group for group in groups if group.lines]
    return VerdictTable(_heads(report, names), groups) if groups else None


def _group(report: Report, cell: Cell, names: Sequence[str]) -> Group:
    titles = {other.name: other.title for other in report.cells}
    found = {(c.baseline, c.metric): c for c in report.comparisons if c.cell == cell.name}
    styles = _styles(report, names)
    lines = []
    for baseline in dict.fromkeys(baseline for baseline, _ in found):
        entries = [_compared(found.get((baseline, name)), styles[name]) for name in names]
        lines.append(Line(titles.get(baseline, baseline), baseline, entries))
    lines.append(Line("shuffled references", "", [_control_entry(cell, name, styles[name]) for name in names]))
    n_groups = max((c.n_groups for c in found.values()), default=0)
    lines = [line for line in lines if any(line.entries)]
    return Group(cell.title, cell.name, f"on {counted(n_groups, 'reference')}", lines)


def _compared(comparison: Comparison | None, style: Style) -> Entry | None:
    if comparison is None:
        return None
    told = comparison.difference
    words: dict[bool | None, Word] = {
        True: ("better", "good"),
        False: ("worse", "bad"),
        None: ("cannot be told apart", "soft"),
    }
    return Entry(
        style.signed(told.value), style.signed_interval(told), p_value(comparison.p), *words[comparison.is_better]
    )


def _control_entry(cell: Cell, name: str, style: Style) -> Entry | None:
    if name not in cell.controls:
        return None
    control = cell.controls[name]
    auc, word = f"AUC{NBSP}{figure(control.auc, False)}", control_word(cell, name, control)
    return Entry(style.signed(control.gap.value), style.signed_interval(control.gap), auc, *word)


def _styles(report: Report, names: Sequence[str]) -> dict[str, Style]:
    differences = {name: [c.difference for c in report.comparisons if c.metric == name] for name in names}
    gaps = {name: [cell.controls[name].gap for cell in report.cells if name in cell.controls] for name in names}
    return {name: Style.of(metric_of(report, name).is_share, differences[name] + gaps[name]) for name in names}


def _heads(report: Report, names: Sequence[str]) -> list[Head]:
    metrics = {name: metric_of(report, name) for name in names}
    return [head_of(name, metric, "points" if metric.is_share else "") for name, metric in metrics.items()]
