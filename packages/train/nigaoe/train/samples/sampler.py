"""Which rows the samples of a run are: a function of seed and step alone, in constant memory.

A run is one sequence of global batches. Workers take their share of each, so their number changes nothing.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDS = 6
"""Of the Feistel network; four are already indistinguishable from chance with good round functions (Luby & Rackoff)."""


class SampleOrder:
    """Rows of every step's batch. Each epoch of a bucket visits each of its rows once, in an order of its own."""

    def __init__(self, bucket_rows: Sequence[int], batch_size: int, seed: int) -> None:
        """`bucket_rows`: rows of each bucket; batches are of one bucket, in proportion to these."""
        self._rows, self._batch_size, self._seed = tuple(bucket_rows), batch_size, seed

    def at(self, step: int) -> tuple[int, Tensor]:
        """(bucket, rows of it, int64 [batch_size]) of a step's batch, over all workers."""
        bucket, earlier = self._turn(step)
        rows, positions = self._rows[bucket], np.arange(self._batch_size) + earlier * self._batch_size
        epochs, places = np.divmod(positions, rows)
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = permuted(places[chosen], rows, seed_of("order", self._seed, bucket, epoch))
        return bucket, torch.from_numpy(found)

    def _turn(self, step: int) -> tuple[int, int]:
        """Bucket of a step, and how many batches of it came before.

        Batch k of a bucket with n of N rows is due at time (2k + 1) / n, and steps follow those times: no bucket
        is ever further from its share than half as many batches as there are buckets.
        """
        total, buckets = sum(self._rows), [i for i, rows in enumerate(self._rows) if rows]
        # Up to a little before this step, counts have a closed form; the rest is merged.
        start = max(0, step - len(buckets))
        counts = {i: max(0, -((total - 2 * start * self._rows[i]) // (2 * total))) for i in buckets}
        while True:
            due = min(buckets, key=lambda i: ((2 * counts[i] + 1) / self._rows[i], i))
            if sum(counts.values()) == step:
                return due, counts[due]
            counts[due] += 1


def permuted(places: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Images of `places` under a pseudo-random permutation of range(size), without a table of it.

    A Feistel network on the smallest even number of bits that holds `size`, applied again to what falls outside
    (cycle walking: Black & Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(seed_of("round", key, i)) for i in range(ROUNDS)]
    walking = np.ones(len(places), bool)
    values = places.astype(np.uint64)
    while walking.any():
        left, right = values[walking] >> half, values[walking] & mask
        for round_key in keys:
            left, right = right, left ^ (_mixed(right ^ round_key) & mask)
        values[walking] = (left << half) | right
        walking = values >= size
    return values.astype(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits of x stirred: the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def seed_of(*parts: object) -> int:
    """A 63-bit seed of its parts, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
