"""Headline figures in words, for the page and for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from nigaoe.core.reports import Estimate, Report
from nigaoe.eval.pages.wording import Style, figure
from nigaoe.eval.protocols.protocol import Headline


@dataclass(frozen=True)
class HeadlineText:
    """A headline, ready to be shown."""

    title: str
    figure: str
    interval: str
    beside: str
    """Figures to compare with."""


def headline_texts(headlines: Sequence[Headline], report: Report) -> list[HeadlineText]:
    """The headlines of a report; a figure that nothing could be scored for is left out."""
    figures = {(cell.name, name): estimate for cell in report.cells for name, estimate in cell.metrics.items()}
    shown = [(h, figures[h.cell, h.metric]) for h in headlines if (h.cell, h.metric) in figures]
    return [_text(headline, estimate, figures) for headline, estimate in shown]


def _text(headline: Headline, estimate: Estimate, figures: dict[tuple[str, str], Estimate]) -> HeadlineText:
    beside = [
        f"{words} {figure(figures[cell, metric].value, headline.is_share)}"
        for words, cell, metric in headline.beside
        if (cell, metric) in figures
    ]
    style = Style.of(headline.is_share, [estimate])
    return HeadlineText(headline.title, style.figure(estimate.value), style.interval(estimate), ", ".join(beside))
