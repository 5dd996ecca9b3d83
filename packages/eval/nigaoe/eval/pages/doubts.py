"""Whether to believe a report: its checks by weight, and which samples have no figure."""

from dataclasses import dataclass

from nigaoe.core.reports import Check, Report
from nigaoe.eval.pages.wording import counted

_FIRST = 10


@dataclass(frozen=True)
class Failures:
    """Samples of a cell without a figure."""

    title: str
    name: str
    words: str
    first: list[tuple[str, str]]
    """Samples and reasons."""
    more: int


def checks_in_order(report: Report) -> list[Check]:
    """What failed first, then what could not be looked at."""
    order = {False: 0, None: 1, True: 2}
    return sorted(report.checks, key=lambda check: order[check.passed])


def failures(report: Report) -> list[Failures]:
    """Cells with samples that have no figure."""
    found = []
    for cell in report.cells:
        if cell.failed:
            words = f"{len(cell.failed):,} of {counted(cell.n, 'sample')}"
            first = list(cell.failed.items())[:_FIRST]
            found.append(Failures(cell.title, cell.name, words, first, len(cell.failed) - len(first)))
    return found


def cut_prompts(report: Report) -> list[str]:
    """Cells whose prompts are longer than what CLIP reads."""
    return [f"{cell.title}: {cell.cut_prompts:,} of {cell.n:,}" for cell in report.cells if cell.cut_prompts]
