"""Features by sample id, each id once: whatever was done twice, in whatever order, the rows are the same.

N samples, D features.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.space import FeatureSpace

UNNAMED = -1
"""The id of samples that came without one, which nothing can recognise a second time."""
_SAME_WITHIN = 0.05
"""Distance, over the row's length, up to which two rows are one sample: a network computes others in another batch."""

Ids = Sequence[int] | Sequence[str] | Int64[np.ndarray, " N"] | Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows in the order of their ids."""

    space: FeatureSpace
    ids: Int64[np.ndarray, " N"]
    features: Float[np.ndarray, "N D"]

    @classmethod
    def of(cls, space: FeatureSpace, features: Tensor | Float[np.ndarray, "N D"], ids: Ids | None = None) -> "Samples":
        """A batch; without ids every row is a sample of its own.

        Raises:
            DataError: The features are not of this space, or one id stands for two different samples.
        """
        x = space.checked(features)
        keys = np.full(len(x), UNNAMED, np.int64) if ids is None else sample_ids(ids)
        if len(keys) != len(x):
            raise DataError(f"{len(x)} rows of features came with {len(keys)} sample ids")
        return cls.in_order(space, keys, x)

    @classmethod
    def empty(cls, space: FeatureSpace) -> "Samples":
        """No samples yet."""
        dtype = np.float64 if space.dtype == "float64" else np.float32
        return cls(space, np.zeros(0, np.int64), np.zeros((0, space.dim), dtype))

    def merge(self, other: "Samples") -> "Samples":
        """Both together; associative and, but for the order of unnamed rows, commutative, to the last bit."""
        self.space.require_same(other.space)
        both = np.concatenate([self.ids, other.ids]), np.concatenate([self.features, other.features])
        return self.in_order(self.space, *both)

    def without(self, ids: Int64[np.ndarray, " K"]) -> "Samples":
        """Those not named in `ids`."""
        fresh = ~np.isin(self.ids, ids[ids != UNNAMED])
        return Samples(self.space, self.ids[fresh], self.features[fresh])

    @classmethod
    def in_order(cls, space: FeatureSpace, ids: np.ndarray, features: np.ndarray) -> "Samples":
        """Rows that were checked before, sorted, each id once."""
        order = np.argsort(ids, kind="stable")
        ids, x = ids[order], features[order]
        kept = np.ones(len(ids), bool)
        for row in np.flatnonzero((ids[1:] == ids[:-1]) & (ids[1:] != UNNAMED)) + 1:
            one, two = x[row - 1], x[row]
            if np.linalg.norm(one - two) > _SAME_WITHIN * np.linalg.norm(one):
                raise DataError(f"sample id {ids[row]} stands for two different samples; give every sample its own")
            # Which of two nearly equal rows stays must not hang on which came first.
            x[row] = min(one, two, key=lambda values: values.tobytes())
            kept[row - 1] = False
        return cls(space, ids[kept], x[kept])


def sample_ids(ids: Ids) -> Int64[np.ndarray, " N"]:
    """Ids as numbers of 63 bits; texts are hashed.

    Raises:
        DataError: Neither texts nor whole numbers from 0.
    """
    if isinstance(ids, Tensor):
        ids = ids.cpu().numpy()
    if len(ids) == 0:
        return np.zeros(0, np.int64)
    if all(isinstance(name, str) for name in ids):
        digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
        return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int64)
    numbers = np.asarray(ids)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise DataError(f"sample ids must be texts or whole numbers from 0, not {ids[0]!r} and the like")
    return numbers.astype(np.int64)
