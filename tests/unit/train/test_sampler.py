"""The order of the samples: every row once an epoch, buckets by their share, the same for any number of workers."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.train.samples.sampler import SampleOrder, permuted


@given(st.integers(1, 3000), st.integers(0, 2**62))
def test_a_permutation_hits_every_place_once(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_places_of_a_permutation_are_spread_evenly() -> None:
    size, cells = 40_000, 20
    shuffled = permuted(np.arange(size), size, 7)
    # Where the first twentieth of all places goes, and how far neighbours come apart.
    counts = np.bincount(shuffled[: size // cells] * cells // size, minlength=cells)
    expected = size / cells / cells
    assert ((counts - expected) ** 2 / expected).sum() < 45  # 19 degrees of freedom: 1 in 1000 is above 43.8
    assert abs(np.corrcoef(np.arange(size), shuffled)[0, 1]) < 0.02
    assert not np.array_equal(shuffled, permuted(np.arange(size), size, 8))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any), st.integers(1, 7), st.integers(0, 5))
def test_every_epoch_of_a_bucket_visits_its_rows_once(bucket_rows: list[int], batch: int, seed: int) -> None:
    order = SampleOrder(bucket_rows, batch, seed)
    seen: dict[int, list[int]] = {}
    for step in range(3 * sum(bucket_rows)):
        bucket, rows = order.at(step)
        assert len(rows) == batch
        seen.setdefault(bucket, []).extend(rows.tolist())
    for bucket, rows_seen in seen.items():
        size = bucket_rows[bucket]
        for start in range(0, len(rows_seen) - size + 1, size):
            assert sorted(rows_seen[start : start + size]) == list(range(size))
    assert sum(map(len, seen.values())) == 3 * sum(bucket_rows) * batch


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(0, 5000))
def test_a_bucket_is_always_close_to_its_share(bucket_rows: list[int], steps: int) -> None:
    order, total = SampleOrder(bucket_rows, 4, 0), sum(bucket_rows)
    turns = [order._turn(step) for step in range(max(0, steps - 50), steps)]
    for step, (bucket, earlier) in zip(range(max(0, steps - 50), steps), turns, strict=True):
        assert abs(earlier - step * bucket_rows[bucket] / total) <= (len(bucket_rows) + 1) / 2
    counts = Counter(bucket for bucket, _ in turns)
    for bucket, count in counts.items():
        numbers = [earlier for b, earlier in turns if b == bucket]
        assert numbers == list(range(numbers[0], numbers[0] + count))


@pytest.mark.parametrize("rows", [10_000_000])
def test_ten_million_rows_cost_nothing(rows: int) -> None:
    tracemalloc.start()
    start = time.perf_counter()
    order = SampleOrder([rows // 2, rows // 2], 256, 0)
    seen = [order.at(step)[1] for step in (0, 1, 40_000, 10**6, 10**9)]
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(int(found.max()) < rows for found in seen)
    assert peak < 2**20, f"{peak} bytes"
    # Five steps; far from the seconds that a table of permutations would take, whatever else the machine does.
    assert seconds < 5
