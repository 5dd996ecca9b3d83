"""Frechet distance of two Gaussians (Dowson & Landau 1982). On the features of FID's Inception: FID (arXiv 1706.08500).

From 0, lower is better; 0 means equal means and covariances. It falls with the number of samples, about as 1 / n, so
compare only figures of the same n. The mean of shards' distances is not that of the whole: merge states instead.

N samples, D features, R rank.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.distribution import SIDES, DistributionMetric, Side
from nigaoe.eval.metrics.moments import Moments, merged
from nigaoe.eval.metrics.samples import UNNAMED, Samples


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean, and a factor F of a covariance: F^T F."""

    mean: Float64[np.ndarray, " D"]
    factor: Float64[np.ndarray, "R D"]

    @classmethod
    def of_moments(cls, moments: Moments) -> "Gaussian":
        """N samples span n - 1 dimensions at most; eigenvalues beyond are rounding."""
        values, vectors = np.linalg.eigh(moments.covariance)
        rank = min(moments.n - 1, moments.dim)
        kept = np.clip(values[-rank:], 0.0, None)
        return cls(moments.mean, np.asarray(np.sqrt(kept)[:, None] * vectors[:, -rank:].T))

    @classmethod
    def of_features(cls, features: Float[np.ndarray, "N D"]) -> "Gaussian":
        """Where there are fewer samples than features the centred samples are the factor: exact, and far cheaper."""
        if not 2 <= len(features) <= features.shape[1]:
            return cls.of_moments(Moments.of(features))
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        return cls(mean, (x - mean) / np.sqrt(len(x) - 1))

    def distance(self, other: "Gaussian") -> float:
        """|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2.

        The last trace is the nuclear norm of F_a F_b^T. Unlike the square root of a product it stays exact where the
        covariances have no full rank.
        """
        if len(self.mean) != len(other.mean):
            raise DataError(f"distributions of {len(self.mean)} and of {len(other.mean)} features have no distance")
        overlap = float(np.linalg.svd(self.factor @ other.factor.T, compute_uv=False).sum())
        shift = self.mean - other.mean
        traces = float((self.factor**2).sum() + (other.factor**2).sum())
        return max(float(shift @ shift) + traces - 2 * overlap, 0.0)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Distance of the Gaussians with these moments."""
    if a.dim != b.dim:
        raise DataError(f"distributions of {a.dim} and of {b.dim} features have no distance")
    return Gaussian.of_moments(a).distance(Gaussian.of_moments(b))


def is_rank_deficient(a: Moments, b: Moments) -> bool:
    """Too few samples on a side for a covariance of full rank: exact here, but other implementations differ by 1e-4."""
    return min(a.n, b.n) <= a.dim


class FrechetDistance(DistributionMetric[CountedMoments]):
    """Holds moments only: 8 (D + 2) D bytes a side, 34 MB for 2,048 features."""

    higher_is_better = False
    plot_lower_bound = 0.0

    @property
    def name(self) -> str:
        """`fid`, or `fd_<extractor>` on other features than FID's."""
        return self.space.figure_name("fid", "fd")

    def compute(self) -> Tensor:
        """The distance, float64.

        Raises:
            DataError: A side has fewer than 2 samples, or ranks saw the same sample.
        """
        return self._scalar(frechet_distance(*self._sides()))

    @property
    def is_rank_deficient(self) -> bool:
        """Does a side have too few samples for a covariance of full rank?"""
        return is_rank_deficient(*self._sides())

    def _sides(self) -> tuple[Moments, Moments]:
        for side in SIDES:
            named = self._ids_of(side)
            named = named[named != UNNAMED]
            if len(np.unique(named)) < len(named):
                raise DataError(
                    f"{len(named) - len(np.unique(named))} {side} samples were seen by more than one rank and cannot "
                    "be taken out of the sum; use a sampler that does not pad"
                )
        real, fake = self._held("real").moments, self._held("fake").moments
        if min(real.n, fake.n) < 2:
            raise DataError(f"{self.name} needs 2 or more samples a side, there are {real.n} real and {fake.n} fake")
        return real, fake

    def _declare(self, side: Side) -> None:
        nothing = torch.tensor(_stack(Moments.empty(self.space.dim)))
        self.add_state(f"{side}_moments", nothing, dist_reduce_fx=_merge_stacked)

    def _add(self, side: Side, samples: Samples) -> None:
        held = self._held(side)
        self._hold(side, held.merge(CountedMoments.of(samples.without(held.ids))))

    def _held(self, side: Side) -> CountedMoments:
        moments = _unstack(getattr(self, f"{side}_moments").cpu().numpy())
        return CountedMoments(self.space, np.sort(self._ids_of(side), kind="stable"), moments)

    def _hold(self, side: Side, part: CountedMoments) -> None:
        setattr(self, f"{side}_ids", [torch.tensor(part.ids, device=self.device)])
        setattr(self, f"{side}_moments", torch.tensor(_stack(part.moments), device=self.device))


# torchmetrics reduces every state by itself, and these three can only be merged together. So one tensor holds all: a
# row of n, the mean, and the rows of the second moment.
def _stack(moments: Moments) -> Float64[np.ndarray, "D+2 D"]:
    return np.concatenate([np.full((1, moments.dim), float(moments.n)), moments.mean[None], moments.m2])


def _unstack(stacked: Float64[np.ndarray, "D+2 D"]) -> Moments:
    return Moments(int(stacked[0, 0]), stacked[1], stacked[2:])


def _merge_stacked(stacked: Tensor) -> Tensor:
    whole = merged(_unstack(part) for part in stacked.cpu().numpy())
    return torch.tensor(_stack(whole), device=stacked.device)
