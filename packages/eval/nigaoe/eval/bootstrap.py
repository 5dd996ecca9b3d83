"""Bootstrap intervals over groups: pictures of one identity, or of one reference, are not independent of one another.

N samples, C columns, G groups or bundles of them, R resamples.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from nigaoe.core.reports import Estimate

RESAMPLES = 1000
MAX_UNITS = 10_000
"""What is resampled at most: more groups than that are dealt out into as many bundles, whose sums vary alike."""
_SEED = 20230813

Statistic = Callable[[Float64[np.ndarray, "... C"]], Float64[np.ndarray, "..."]]
"""A figure as a function of column means."""


def first_column(means: Float64[np.ndarray, "... C"]) -> Float64[np.ndarray, "..."]:
    """The plain mean."""
    return means[..., 0]


def units_of(groups: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """Number of the group of each sample, or of its group's bundle: what hangs together, without a gap in the numbers.

    Bundles keep memory from growing with the samples: a million groups would take 8 GB of draws.
    """
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) <= MAX_UNITS:
        return owner
    # Shuffled, for names that follow one another may be alike.
    return (np.random.default_rng(_SEED).permutation(len(names)) % MAX_UNITS)[owner]


class GroupBootstrap:
    """Resamples groups with replacement. Draws depend on the number of groups alone, so that figures stay paired."""

    def __init__(self, groups: Sequence[str], resamples: int = RESAMPLES) -> None:
        """`groups`: the group of each sample, length N."""
        self._owner = units_of(groups)
        self.num_groups = int(self._owner.max(initial=-1)) + 1
        self._counts = np.bincount(self._owner, minlength=self.num_groups).astype(np.float64)
        rng = np.random.default_rng(_SEED)
        self._draws: Int64[np.ndarray, "R G"] = rng.integers(self.num_groups, size=(resamples, self.num_groups))
        self._drawn_counts = self._counts[self._draws].sum(axis=1)

    def estimate(self, columns: Float64[np.ndarray, "N C"], statistic: Statistic = first_column) -> Estimate:
        """The figure and its 95 % percentile interval."""
        value = float(statistic(columns.mean(axis=0)))
        low, high = np.quantile(statistic(self._resampled_means(columns)), [0.025, 0.975])
        return Estimate(value=value, n=len(columns), low=float(low), high=float(high))

    def _resampled_means(self, columns: Float64[np.ndarray, "N C"]) -> Float64[np.ndarray, "R C"]:
        # Summed column by column without a matrix product: a BLAS may order its sums by the number of threads.
        means = np.empty((len(self._draws), columns.shape[1]))
        for j, column in enumerate(columns.T):
            sums = np.bincount(self._owner, weights=column, minlength=self.num_groups)
            means[:, j] = sums[self._draws].sum(axis=1) / self._drawn_counts
        return means
