"""Squared maximum mean discrepancy of two samples (Gretton et al. 2012), with its standard error.

N samples of x, M of y, D features. Sums are in float64 and a fixed order, without random subsets: the same samples give
the same figure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from nigaoe.core.errors import DataError
from nigaoe.core.reports import Estimate

Kernel = Callable[[Float64[np.ndarray, "N D"], Float64[np.ndarray, "M D"]], Float64[np.ndarray, "N M"]]

_ROWS = 1024
"""Of a kernel matrix at a time: 160 MB for 20,000 samples."""
_LEAST = 3
"""Samples a side: leaving one out must leave a pair."""


@dataclass(frozen=True, eq=False)
class KernelSums:
    """For each sample, its kernel with itself, with the rest of its own side, and with the other side."""

    itself: Float64[np.ndarray, " N"]
    own: Float64[np.ndarray, " N"]
    other: Float64[np.ndarray, " N"]


def mmd2(
    x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"], kernel: Kernel, is_unbiased: bool, scale: float = 1.0
) -> Estimate:
    """Mean k(x, x') + mean k(y, y') - 2 mean k(x, y), times `scale`, with a 95 % interval.

    Unbiased leaves out the pairs of a sample with itself; it may fall below 0. The interval is the estimate +- 1.96
    jackknife standard errors. It needs no random numbers; near 0 it is wider than it need be.

    Raises:
        DataError: Fewer than 3 samples a side.
    """
    if min(len(x), len(y)) < _LEAST:
        raise DataError(f"a discrepancy needs {_LEAST} samples a side or more, there are {len(x)} and {len(y)}")
    a, b = _sums(x, y, kernel), _sums(y, x, kernel)
    across = a.other.sum()
    mean_a, mean_b = _mean(a, is_unbiased), _mean(b, is_unbiased)
    value = mean_a + mean_b - 2 * across / (len(x) * len(y))
    variance = 0.0
    for one, mean_other, others in ((a, mean_b, len(y)), (b, mean_a, len(x))):
        n = len(one.own)
        left_out = _means_without_one(one, is_unbiased) + mean_other - 2 * (across - one.other) / ((n - 1) * others)
        variance += (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
    reach = 1.96 * np.sqrt(variance)
    low, high = scale * (value - reach), scale * (value + reach)
    return Estimate(value=float(scale * value), n=len(y), low=float(low), high=float(high))


def _sums(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> KernelSums:
    itself, own, other = (np.empty(len(x)) for _ in range(3))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, min(start + _ROWS, len(x)))
        within = kernel(x[rows], x)
        places = np.arange(rows.start, rows.stop)
        itself[rows] = within[places - start, places]
        within[places - start, places] = 0.0
        own[rows] = within.sum(axis=1)
        other[rows] = kernel(x[rows], y).sum(axis=1)
    return KernelSums(itself, own, other)


def _mean(sums: KernelSums, is_unbiased: bool) -> float:
    n = len(sums.own)
    pairs = float(sums.own.sum())
    return pairs / (n * (n - 1)) if is_unbiased else (pairs + float(sums.itself.sum())) / n**2


def _means_without_one(sums: KernelSums, is_unbiased: bool) -> Float64[np.ndarray, " N"]:
    n = len(sums.own)
    pairs = sums.own.sum() - 2 * sums.own
    if is_unbiased:
        return np.asarray(pairs / ((n - 1) * (n - 2)))
    return np.asarray((pairs + sums.itself.sum() - sums.itself) / (n - 1) ** 2)
