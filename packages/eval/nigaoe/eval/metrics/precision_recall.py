"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

Precision is the share of fake samples within the manifold of the real ones, recall the share of real samples within
that of the fake ones. Both from 0 to 1, higher is better: precision falls with bad pictures, recall with missing
kinds of pictures. Both depend on the number of samples: compare figures of equal numbers.

N real, M fake samples, D features.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from nigaoe.eval.metrics.distribution import SampleMetric
from nigaoe.eval.metrics.neighbours import balls_around, radii
from nigaoe.eval.metrics.space import FeatureSpace


def precision_recall(
    real: Float64[np.ndarray, "N D"], fake: Float64[np.ndarray, "M D"], k: int = 3
) -> tuple[float, float]:
    """Precision and recall; each needs more than k samples a side."""
    precision = (balls_around(fake, real, radii(real, k)) > 0).mean()
    recall = (balls_around(real, fake, radii(fake, k)) > 0).mean()
    return float(precision), float(recall)


class PrecisionRecall(SampleMetric):
    """Both figures, by name."""

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        space: FeatureSpace,
        extractor: Callable[[Any], Tensor | Float[np.ndarray, "N D"]] | None = None,
        k: int = 3,
        **kwargs: Any,
    ) -> None:
        """`k`: the neighbour to which a sample's ball reaches."""
        super().__init__(space, extractor, **kwargs)
        self.k = k

    @property
    def name(self) -> str:
        """`precision_recall_<extractor>`."""
        return f"precision_recall_{self.space.extractor}"

    def compute(self) -> dict[str, Tensor]:
        """`precision` and `recall`, float64."""
        least = self.k + 1
        both = precision_recall(self.features("real", least), self.features("fake", least), self.k)
        return {name: self._scalar(value) for name, value in zip(("precision", "recall"), both, strict=True)}
