"""Frechet distance extrapolated to endlessly many fake samples (Chong & Forsyth, arXiv 1911.07023): FID_infinity.

The distance to a fixed real side is nearly linear in 1 / n. The intercept of a line through distances of several n is
free of that bias, so that runs of different size can be compared. Lower is better, 0 is perfect; noise may take it
below 0. The line holds where n exceeds the number of features.

N samples, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.distribution import SampleMetric
from nigaoe.eval.metrics.frechet import Gaussian
from nigaoe.eval.metrics.space import FeatureSpace

_SEED = 20191116
_LEAST = 4
"""Samples a side, for two sizes of two or more."""


@dataclass(frozen=True)
class SizePoint:
    """A distance and the number of fake samples that it rests on."""

    n: int
    distance: float


def sample_size_curve(
    real: Float[np.ndarray, "N D"], fake: Float[np.ndarray, "M D"], points: int = 15, smallest: int = 5000
) -> list[SizePoint]:
    """Distances at sizes in equal steps from `smallest`, at most half of the fake samples, to all of them.

    Each size takes its own random subset; the draws depend on the numbers alone.
    """
    if points < 2 or min(len(real), len(fake)) < _LEAST:
        raise DataError(
            f"a curve needs 2 points and {_LEAST} samples a side or more, not {points}, {len(real)} and {len(fake)}"
        )
    rng = np.random.default_rng(_SEED)
    reference = Gaussian.of_features(real)
    sizes = np.unique(np.linspace(min(smallest, len(fake) // 2), len(fake), points).astype(int))
    subsets = [np.sort(rng.permutation(len(fake))[:size]) for size in sizes]
    return [SizePoint(len(s), reference.distance(Gaussian.of_features(fake[s]))) for s in subsets]


def extrapolated(curve: list[SizePoint]) -> float:
    """Intercept of the least-squares line of distance over 1 / n."""
    x, y = np.array([1 / point.n for point in curve]), np.array([point.distance for point in curve])
    slope = ((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) @ (x - x.mean()))
    return float(y.mean() - slope * x.mean())


class FrechetInfinity(SampleMetric):
    """FID_infinity and the curve that it comes from."""

    higher_is_better = False

    def __init__(
        self,
        space: FeatureSpace,
        extractor: Callable[[Any], Tensor | Float[np.ndarray, "N D"]] | None = None,
        points: int = 15,
        smallest: int = 5000,
        **kwargs: Any,
    ) -> None:
        """`points` and `smallest` are those of `sample_size_curve`."""
        super().__init__(space, extractor, **kwargs)
        self.points, self.smallest = points, smallest

    @property
    def name(self) -> str:
        """`fid_infinity`, or `fd_infinity_<extractor>` on other features than FID's."""
        return self.space.figure_name("fid_infinity", "fd_infinity")

    def curve(self) -> list[SizePoint]:
        """Distance by number of fake samples, of this process's samples."""
        return sample_size_curve(
            self.features("real", _LEAST), self.features("fake", _LEAST), self.points, self.smallest
        )

    def compute(self) -> Tensor:
        """The intercept, float64."""
        return self._scalar(extrapolated(self.curve()))
