"""Density and coverage (Naeem et al., arXiv 2002.09797).

Density is the number of real samples' balls that a fake sample lies in, over k: from 0, about 1 for equal
distributions, more where fakes crowd together. Coverage is the share of real samples whose ball holds a fake one: from
0 to 1, and 1 - 2^-k for equal distributions. Higher is better. Neither trusts balls around fakes, as recall does.

N real, M fake samples, D features.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from nigaoe.eval.metrics.distribution import SampleMetric
from nigaoe.eval.metrics.neighbours import balls_around, radii, reached
from nigaoe.eval.metrics.space import FeatureSpace


def density_coverage(
    real: Float64[np.ndarray, "N D"], fake: Float64[np.ndarray, "M D"], k: int = 5
) -> tuple[float, float]:
    """Density and coverage; needs more than k real samples."""
    radius = radii(real, k)
    return float(balls_around(fake, real, radius).mean() / k), float(reached(real, radius, fake).mean())


class DensityCoverage(SampleMetric):
    """Both figures, by name."""

    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(
        self,
        space: FeatureSpace,
        extractor: Callable[[Any], Tensor | Float[np.ndarray, "N D"]] | None = None,
        k: int = 5,
        **kwargs: Any,
    ) -> None:
        """`k`: the neighbour to which a real sample's ball reaches."""
        super().__init__(space, extractor, **kwargs)
        self.k = k

    @property
    def name(self) -> str:
        """`density_coverage_<extractor>`."""
        return f"density_coverage_{self.space.extractor}"

    def compute(self) -> dict[str, Tensor]:
        """`density` and `coverage`, float64."""
        both = density_coverage(self.features("real", self.k + 1), self.features("fake", 1), self.k)
        return {name: self._scalar(value) for name, value in zip(("density", "coverage"), both, strict=True)}
