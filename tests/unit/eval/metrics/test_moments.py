"""Moments are a monoid, and no partition of the samples changes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nigaoe.eval.metrics.moments import Moments, merged, pack, unpack

SEEDS = st.integers(0, 2**32 - 1)


def _assert_same(a: Moments, b: Moments, rtol: float = 1e-10) -> None:
    assert a.n == b.n
    scale = np.abs(b.m2).max(initial=1.0)
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(a.m2, b.m2, rtol=rtol, atol=rtol * scale)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 7), min_size=1, max_size=8))
def test_any_partition_gives_the_whole(seed: int, sizes: list[int]) -> None:
    x = np.random.default_rng(seed).normal(3.0, 2.0, (sum(sizes), 5))
    parts = [Moments.of(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    _assert_same(merged(parts), Moments.of(x))
    _assert_same(merged(reversed(parts)), Moments.of(x))


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_merging_is_associative_and_has_an_identity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = (Moments.of(rng.normal(size=(n, 4))) for n in (1, 5, 9))
    _assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    for merged_with_nothing in (a.merge(Moments.empty(4)), Moments.empty(4).merge(a)):
        np.testing.assert_array_equal(merged_with_nothing.m2, a.m2)


def test_a_large_mean_costs_no_digits() -> None:
    x = np.random.default_rng(0).normal(1e5, 0.1, (400, 3))
    whole = merged(Moments.of(part) for part in np.split(x, 8))
    np.testing.assert_allclose(whole.covariance, np.cov(x - 1e5, rowvar=False), rtol=1e-7, atol=1e-9)


def test_float32_features_are_summed_in_float64() -> None:
    x = np.random.default_rng(0).normal(1e3, 0.1, (300, 3)).astype(np.float32)
    np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9)


def test_packing_loses_nothing() -> None:
    moments = Moments.of(np.random.default_rng(0).normal(size=(9, 6)))
    np.testing.assert_array_equal(unpack(pack(moments.m2), 6), moments.m2)


def test_refuses_what_has_no_moments() -> None:
    with pytest.raises(ValueError, match="finite"):
        Moments.of(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="2 samples"):
        _ = Moments.of(np.ones((1, 2))).covariance
    with pytest.raises(ValueError, match="cannot be merged"):
        Moments.empty(2).merge(Moments.empty(3))
