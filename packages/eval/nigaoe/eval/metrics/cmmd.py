"""CMMD: 1,000 times the squared MMD with a Gaussian kernel of sigma 10 (Jayasumana et al., arXiv 2401.09603).

From 0, lower is better. Published on CLIP ViT-L/14 at 336 px and, as there, on embeddings of length 1 and with the
pairs of a sample with itself, which add a bias that falls with the number of samples; `is_unbiased` leaves them out.

N, M samples, D features.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.core.reports import Estimate
from nigaoe.eval.metrics.distribution import SampleMetric
from nigaoe.eval.metrics.mmd import mmd2
from nigaoe.eval.metrics.space import FeatureSpace

SIGMA = 10.0
SCALE = 1000.0


def gaussian_kernel(x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, "N M"]:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.asarray(np.exp(-np.maximum(squared, 0.0) / (2 * SIGMA**2)))


def cmmd(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"], is_unbiased: bool = False) -> Estimate:
    """CMMD of embeddings, which are scaled to length 1 first.

    Raises:
        DataError: An embedding is zero and has no direction.
    """
    return mmd2(_directions(x), _directions(y), gaussian_kernel, is_unbiased, SCALE)


class ClipMmd(SampleMetric):
    """CMMD, with an interval."""

    higher_is_better = False

    def __init__(
        self,
        space: FeatureSpace,
        extractor: Callable[[Any], Tensor | Float[np.ndarray, "N D"]] | None = None,
        is_unbiased: bool = False,
        **kwargs: Any,
    ) -> None:
        """`is_unbiased` gives figures that may be compared between numbers of samples, but not with published ones."""
        super().__init__(space, extractor, **kwargs)
        self.is_unbiased = is_unbiased

    @property
    def name(self) -> str:
        """`cmmd_<extractor>`, with `unbiased` where it is."""
        return f"cmmd_unbiased_{self.space.extractor}" if self.is_unbiased else f"cmmd_{self.space.extractor}"

    def estimate(self) -> Estimate:
        """The discrepancy with its 95 % interval, of this process's samples."""
        return cmmd(self.features("real", 3), self.features("fake", 3), self.is_unbiased)

    def compute(self) -> Tensor:
        """The discrepancy, float64."""
        return self._scalar(self.estimate().value)


def _directions(x: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    y = x.astype(np.float64)
    lengths = np.linalg.norm(y, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError(f"{int((lengths == 0).sum())} embeddings are zero and have no direction")
    return np.asarray(y / lengths)
