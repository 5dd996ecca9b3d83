"""A comparison of two runs: in the terminal, and as a page that needs nothing but itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nigaoe.core.atomic import write_whole
from nigaoe.core.pages import render_page
from nigaoe.core.reports import Estimate
from nigaoe.eval.findings.comparing_runs import ComparedFigure, RunsComparison

_TEMPLATE = Path(__file__).parent / "comparison.html.j2"
_HEAD_ROOM = 1.15
"""Half a bar's width over the interval's larger end."""


@dataclass(frozen=True)
class Row:
    """A figure in words."""

    title: str
    name: str
    first: str
    second: str
    difference: str
    interval: str
    p: str
    verdict: str
    is_good: bool | None
    n: str
    note: str
    bar: tuple[float, float, float] | None
    """Percent of a bar with 0 in its middle: the interval's ends, the difference."""


@dataclass(frozen=True)
class Section:
    """A cell of each run."""

    title: str
    rows: list[Row]


def print_comparison(comparison: RunsComparison, console: Console | None = None) -> None:
    """A table for each cell, and above them what else the runs do not have in common."""
    console = console or Console(highlight=False)
    console.print(f"A: {escape(comparison.first)}\nB: {escape(comparison.second)}", soft_wrap=True)
    if comparison.differences:
        console.print("\nNot the same in A and B:")
        for key, (first, second) in comparison.differences.items():
            console.print(f"  {escape(key)}: {escape(first or '-')} | {escape(second or '-')}", soft_wrap=True)
    for section in sections(comparison.figures):
        console.print()
        table = Table(title=escape(section.title), title_justify="left")
        table.add_column("", overflow="fold")
        for head in ("A", "B", "B - A", "95 %", "p"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for row in section.rows:
            table.add_row(escape(row.title), row.first, row.second, row.difference, row.interval, row.p, row.verdict)
        console.print(table)
        for row in section.rows:
            if row.note:
                console.print(f"{escape(row.title)} {escape(row.note)}", soft_wrap=True)
    for note in notes(comparison.figures):
        console.print(f"\n{escape(note)}", soft_wrap=True)


def write_comparison_page(path: Path, comparison: RunsComparison) -> None:
    """Write `comparison.html`."""
    html = render_page(
        _TEMPLATE, comparison=comparison, sections=sections(comparison.figures), notes=notes(comparison.figures)
    )
    write_whole(path, html.encode())


def sections(figures: Sequence[ComparedFigure]) -> list[Section]:
    """Figures by the cells that they are of."""
    found: dict[tuple[str, str], list[Row]] = {}
    for figure in figures:
        found.setdefault((figure.first_cell, figure.second_cell), []).append(_row(figure))
    return [Section(a if a == b else f"{a} (A), {b} (B)", rows) for (a, b), rows in found.items()]


def notes(figures: Sequence[ComparedFigure]) -> list[str]:
    """What a reader needs to judge the figures."""
    tested = sum(figure.p is not None for figure in figures)
    said = [
        "A and B are means over the samples that both have a value for; B - A is their difference with its 95 % "
        "interval, a paired bootstrap over references, and undecided where that holds 0 or p is above 0.05; p is of a "
        "two-sided sign-flip "
        "test over references. Shares are in percent, their differences in percentage points."
    ]
    if tested > 1:
        said.append(
            f"p is of each figure alone: of {tested} figures of systems that do not differ, {0.05 * tested:.1f} fall "
            "below 0.05 by chance."
        )
    return said


def _row(figure: ComparedFigure) -> Row:
    difference, share = figure.difference, figure.is_share
    groups = "" if figure.n_groups is None else f" of {figure.n_groups} references"
    left_out = f", {figure.left_out} left out" if figure.left_out else ""
    return Row(
        title=figure.title,
        name=figure.metric,
        first=_number(figure.first, share),
        second=_number(figure.second, share),
        difference="" if difference is None else _number(difference.value, share, sign="+"),
        interval="" if difference is None else f"{_end(difference.low, share)} to {_end(difference.high, share)}",
        p="" if figure.p is None else "<0.001" if figure.p < 0.001 else f"{figure.p:.3f}",
        verdict=figure.verdict,
        is_good=figure.is_better,
        n=f"{figure.n}{groups}{left_out}" if figure.n else "",
        note=figure.note,
        bar=None if difference is None else _bar(difference),
    )


def _number(value: float | None, is_share: bool, sign: str = "") -> str:
    if value is None:
        return ""
    return format(100 * value, f"{sign}.1f") if is_share else format(value, f"{sign}.3f")


def _end(value: float | None, is_share: bool) -> str:
    return _number(value, is_share, sign="+")


def _bar(difference: Estimate) -> tuple[float, float, float] | None:
    assert difference.low is not None
    assert difference.high is not None
    reach = _HEAD_ROOM * max(abs(difference.low), abs(difference.high), abs(difference.value))
    if reach == 0:
        return None
    low, high, value = (50 + 50 * x / reach for x in (difference.low, difference.high, difference.value))
    return low, high, value
