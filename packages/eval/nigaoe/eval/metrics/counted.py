"""Moments that know whose they are, so that a shard done twice counts once.

N samples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.moments import Moments
from nigaoe.eval.metrics.samples import UNNAMED, Samples
from nigaoe.eval.metrics.space import FeatureSpace


@dataclass(frozen=True, eq=False)
class CountedMoments:
    """Moments and the ids of the samples in them, in order."""

    space: FeatureSpace
    ids: Int64[np.ndarray, " N"]
    moments: Moments

    @classmethod
    def of(cls, samples: Samples) -> "CountedMoments":
        """Moments of a batch, summed in the order of ids."""
        return cls(samples.space, samples.ids, Moments.of(samples.features))

    def merge(self, other: "CountedMoments") -> "CountedMoments":
        """Both together. Where one holds all samples of the other, it is the whole.

        Raises:
            DataError: Of another space, or some samples but not all are in both: a sum cannot be taken apart.
        """
        self.space.require_same(other.space)
        shared = len(np.intersect1d(self.ids[self.ids != UNNAMED], other.ids[other.ids != UNNAMED]))
        if shared == 0:
            ids = np.sort(np.concatenate([self.ids, other.ids]), kind="stable")
            return CountedMoments(self.space, ids, self.moments.merge(other.moments))
        if shared in (len(self.ids), len(other.ids)):
            return other if shared == len(self.ids) else self
        raise DataError(
            f"{shared} samples of {len(self.ids)} are also among the other {len(other.ids)}; moments that overlap in "
            "part cannot be merged: keep the bounds of shards fixed, so that a repeated shard is the same samples"
        )
