"""Mean and scatter of features, merged exactly as if the shards had been one.

N samples, D features. `merge` is associative and commutative up to rounding, and `Moments.empty` is its identity.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True, eq=False)
class Moments:
    """Sufficient statistics of a Gaussian, float64. Centred: raw sums of squares lose digits when the mean is large."""

    n: int
    mean: Float64[np.ndarray, " D"]
    m2: Float64[np.ndarray, "D D"]
    """Sum of outer products of deviations from the mean."""

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """No samples yet."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"]) -> "Moments":
        """Moments of a batch."""
        if features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(f"features of shape {list(features.shape)} must be finite and of shape [N, D]")
        if len(features) == 0:
            return cls.empty(features.shape[1])
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        deviations = x - mean
        # A matrix product need not be symmetric to the last bit; a packed and unpacked one is.
        return cls(len(x), mean, unpack(pack(deviations.T @ deviations), x.shape[1]))

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """Unbiased covariance, over n - 1."""
        if self.n < 2:
            raise ValueError(f"a covariance needs 2 samples or more, there are {self.n}")
        return self.m2 / (self.n - 1)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both together (Chan, Golub & LeVeque 1979)."""
        if self.dim != other.dim:
            raise ValueError(f"moments of {self.dim} and of {other.dim} features cannot be merged")
        if other.n == 0:
            return self
        if self.n == 0:
            return other
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        return Moments(n, mean, self.m2 + other.m2 + np.outer(delta, delta) * (self.n * other.n / n))


def merged(parts: Iterable[Moments]) -> Moments:
    """All of one or more parts, from left to right: the order decides the last bits."""
    return reduce(Moments.merge, parts)


def pack(m2: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, " T"]:
    """Upper triangle of a symmetric matrix, row by row; T = D (D + 1) / 2."""
    return np.ascontiguousarray(m2[np.triu_indices(len(m2))])


def unpack(triangle: Float64[np.ndarray, " T"], dim: int) -> Float64[np.ndarray, "D D"]:
    """The symmetric matrix that `pack` was given."""
    m2 = np.zeros((dim, dim))
    m2[np.triu_indices(dim)] = triangle
    return m2 + np.triu(m2, 1).T
