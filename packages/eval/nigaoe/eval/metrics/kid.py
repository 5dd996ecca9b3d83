"""Kernel distance: squared MMD with the kernel (x y / D + 1)^3, unbiased (Binkowski et al., arXiv 1801.01401): KID.

Around 0 for equal distributions, where it may be negative; lower is better. Its mean does not depend on the number of
samples. The published figure is a mean over random subsets; this one is of all pairs, as if one subset held everything.

N, M samples, D features.
"""

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from nigaoe.core.reports import Estimate
from nigaoe.eval.metrics.distribution import SampleMetric
from nigaoe.eval.metrics.mmd import mmd2


def cubic_kernel(x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, "N M"]:
    """(x y / D + 1)^3."""
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


class KernelDistance(SampleMetric):
    """KID of all pairs, with an interval."""

    higher_is_better = False

    @property
    def name(self) -> str:
        """`kid`, or `kd_<extractor>` on other features than FID's."""
        return self.space.figure_name("kid", "kd")

    def estimate(self) -> Estimate:
        """The distance with its 95 % interval, of this process's samples."""
        return mmd2(self.features("real", 3), self.features("fake", 3), cubic_kernel, is_unbiased=True)

    def compute(self) -> Tensor:
        """The distance, float64."""
        return self._scalar(self.estimate().value)
