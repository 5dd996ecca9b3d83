"""Which cells of a report are what, and which figure speaks of identity."""

from collections.abc import Iterable

from nigaoe.core.reports import Cell, Metric, Report
from nigaoe.eval.running.panel import FACE_AUC, FACE_FOUND, FACE_RECOGNISED

_FACE, _ATTRIBUTE, _SIMILARITY, _WORDS = "face_", "attribute.", "_i", "clip_t"
_FACE_RATES = (FACE_AUC, FACE_RECOGNISED, FACE_FOUND)
"""Ends of a face encoder's further figures."""


def tested_cells(report: Report) -> list[str]:
    """Cells that were held against a baseline, in the order of the report."""
    compared = {comparison.cell for comparison in report.comparisons}
    return [cell.name for cell in report.cells if cell.name in compared]


def baseline_cells(report: Report) -> list[str]:
    """What they were held against, in the order of the report."""
    baselines = {comparison.baseline for comparison in report.comparisons}
    return [cell.name for cell in report.cells if cell.name in baselines]


def is_ceiling(cell: Cell) -> bool:
    """Whether real pictures are behind it."""
    return cell.base is None and cell.adapter is None and cell.target is None


def sees_reference(cell: Cell) -> bool:
    """Whether its pictures can know of the reference; a base without adapter, or with one at scale 0, does not."""
    return cell.base is None or (cell.adapter is not None and cell.scale != 0)


def is_about_words(metric: str) -> bool:
    """Whether a metric pairs pictures with prompts rather than with references."""
    return metric.startswith((_WORDS, "clip_score"))


def metric_of(report: Report, name: str) -> Metric:
    """What a figure means; its bare name where the report does not say."""
    return report.metrics.get(name) or Metric(title=name)


def identity_metric(names: Iterable[str]) -> str | None:
    """The one that speaks of identity: a face encoder's cosine, else attributes, else CLIP-I."""
    there = list(names)
    faces = [name for name in there if _is_face_cosine(name)]
    return next((name for name in (*faces, f"{_ATTRIBUTE}mean", "clip_i") if name in there), None)


def by_importance(names: Iterable[str]) -> list[str]:
    """Metrics with identity first, then likeness, then obedience, then everything else in its order."""
    return sorted(names, key=_rank)


def is_principal(name: str) -> bool:
    """Whether a metric belongs to the first table of verdicts."""
    return _rank(name) < _LAST


def _is_face_cosine(name: str) -> bool:
    return name.startswith(_FACE) and not name.endswith(_FACE_RATES)


_LAST = 5


def _rank(name: str) -> int:
    if _is_face_cosine(name):
        return 0
    if name == f"{_ATTRIBUTE}mean":
        return 1
    if name == "clip_i":
        return 2
    if name.endswith(_SIMILARITY):
        return 3
    return 4 if name == _WORDS else _LAST
