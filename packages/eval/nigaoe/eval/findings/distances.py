"""Figures of distributions: how far a cell's pictures, as a crowd, are from real ones.

N samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nigaoe.core.reports import Estimate, SizePoint
from nigaoe.eval.metrics.cmmd import ClipMmd
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.density_coverage import DensityCoverage
from nigaoe.eval.metrics.distribution import DistributionState, SampleMetric
from nigaoe.eval.metrics.frechet import FrechetDistance, Gaussian
from nigaoe.eval.metrics.frechet_infinity import FrechetInfinity, extrapolated
from nigaoe.eval.metrics.kid import KernelDistance
from nigaoe.eval.metrics.precision_recall import PrecisionRecall
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.running.merging import Side

M = TypeVar("M", bound=SampleMetric)

_POINTS = 8
"""Of a curve by sample size."""
_LEAST = 8
"""Samples a side for figures of neighbours and curves."""


@dataclass(frozen=True)
class Distances:
    """A cell against its yardstick."""

    figures: dict[str, Estimate]
    curves: dict[str, list[SizePoint]]


def distances(real: Mapping[str, Side], fake: Mapping[str, Side]) -> Distances:
    """All figures under every network that both sides were seen through."""
    figures: dict[str, Estimate] = {}
    curves: dict[str, list[SizePoint]] = {}
    for name in [name for name in real if name in fake]:
        one, other = real[name], fake[name]
        space, n = one.kept.space, other.moments.moments.n
        if min(one.moments.moments.n, n) < 2:
            continue
        frechet = FrechetDistance(space).name
        figures[frechet] = Estimate(value=_gaussian(one).distance(_gaussian(other)), n=n)
        if min(len(one.kept.ids), len(other.kept.ids)) < _LEAST:
            continue
        kept = len(other.kept.ids)
        curve = _with(FrechetInfinity(space, points=_POINTS, smallest=max(_LEAST, kept // 4)), one, other)
        points = curve.curve()
        curves[frechet] = [SizePoint(n=point.n, distance=point.distance) for point in points]
        figures[curve.name] = Estimate(value=extrapolated(points), n=kept)
        figures |= _of_samples(one, other)
    return Distances(figures, curves)


def halves(side: Side) -> tuple[Side, Side]:
    """Every other sample against the rest: what real pictures score against real ones."""
    kept = side.kept
    return _side(kept, np.arange(0, len(kept.ids), 2)), _side(kept, np.arange(1, len(kept.ids), 2))


def _of_samples(one: Side, other: Side) -> dict[str, Estimate]:
    space, n = one.kept.space, len(other.kept.ids)
    kernel = _with(KernelDistance(space), one, other)
    found = {kernel.name: kernel.estimate()}
    if space.extractor.startswith("clip"):
        discrepancy = _with(ClipMmd(space), one, other)
        found[discrepancy.name] = discrepancy.estimate()
    for metric in (PrecisionRecall(space), DensityCoverage(space)):
        values = _with(metric, one, other).compute()
        found |= {f"{word}_{space.extractor}": Estimate(value=float(value), n=n) for word, value in values.items()}
    return found


def _with(metric: M, one: Side, other: Side) -> M:
    metric.merge(DistributionState(real=one.kept, fake=other.kept))
    return metric


def _gaussian(side: Side) -> Gaussian:
    # Fewer samples than features: the samples themselves are exact, and far cheaper.
    if side.has_all and len(side.kept.ids) <= side.kept.space.dim:
        return Gaussian.of_features(side.kept.features)
    return Gaussian.of_moments(side.moments.moments)


def _side(samples: Samples, rows: np.ndarray) -> Side:
    part = Samples(samples.space, samples.ids[rows], samples.features[rows])
    return Side(part, CountedMoments.of(part))
