"""Headline figures in words, for the page and for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from nigaoe.core.reports import Estimate, Report
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
    """The headlines of a report, but for figures that it could not give."""
    texts = []
    for headline in headlines:
        estimate = report.cell(headline.cell).metrics.get(headline.metric)
        if estimate is None:
            continue
        beside = [
            f"{words} {figure(report.cell(cell).metrics[metric].value, headline.is_share)}"
            for words, cell, metric in headline.beside
        ]
        shown = figure(estimate.value, headline.is_share), interval(estimate, headline.is_share)
        texts.append(HeadlineText(headline.title, *shown, ", ".join(beside)))
    return texts


def figure(value: float, is_share: bool) -> str:
    """A share in percent, anything else with three digits."""
    # A no-break space: a figure and its unit stay on one line.
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if is_share else f"{value:.3f}"


def interval(estimate: Estimate, is_share: bool) -> str:
    """The 95 % interval; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if is_share:
        return f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"
    return f"{estimate.low:.3f} – {estimate.high:.3f}"
