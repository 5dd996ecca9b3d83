"""Intervals cover what they should, follow the groups, and chance is what independence gives."""

import tracemalloc

import numpy as np
import pytest

from nigaoe.eval import bootstrap
from nigaoe.eval.bootstrap import GroupBootstrap, units_of
from nigaoe.eval.scoring.controls import agreement_ratio, chance_agreement, one_hot_pair


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    bootstrap = GroupBootstrap([str(i) for i in range(80)])
    covered = 0
    for _ in range(200):
        estimate = bootstrap.estimate(rng.normal(2.0, 1.0, (80, 1)))
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 2.0 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_repeated_pictures_of_one_group_add_no_certainty() -> None:
    values = np.random.default_rng(1).normal(size=(30, 1))
    once = GroupBootstrap([str(i) for i in range(30)]).estimate(values)
    repeated = GroupBootstrap([str(i) for i in range(30)] * 4).estimate(np.tile(values, (4, 1)))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert (repeated.n, once.n) == (120, 30)


def test_groups_of_different_size_weigh_by_their_pictures() -> None:
    estimate = GroupBootstrap(["a", "a", "a", "b"]).estimate(np.array([[1.0], [1.0], [1.0], [0.0]]))
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_the_same_figures_give_the_same_interval() -> None:
    values = np.random.default_rng(2).normal(size=(20, 1))
    groups = [str(i % 7) for i in range(20)]
    assert GroupBootstrap(groups).estimate(values) == GroupBootstrap(groups).estimate(values)


def test_bundles_of_groups_give_the_interval_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    groups = [f"{i // 2:05d}" for i in range(6000)]
    # The two of a group are alike, and names that follow one another are.
    values = np.repeat(rng.normal(size=3000) + np.linspace(-1, 1, 3000), 2)[:, None]
    single = GroupBootstrap(groups).estimate(values)
    monkeypatch.setattr(bootstrap, "MAX_UNITS", 500)
    bundled = GroupBootstrap(groups)
    assert bundled.num_groups == 500
    estimate = bundled.estimate(values)
    assert single.low is not None
    assert single.high is not None
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.value == single.value
    assert estimate.high - estimate.low == pytest.approx(single.high - single.low, rel=0.15)
    # What hangs together stays together.
    units = units_of(groups)
    assert np.array_equal(units[::2], units[1::2])
    assert np.bincount(units).tolist() == [12] * 500


def test_memory_does_not_grow_with_groups() -> None:
    tracemalloc.start()
    GroupBootstrap([f"{i:06d}" for i in range(200_000)]).estimate(np.zeros((200_000, 1)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 1.6 GB, were each group drawn.
    assert peak < 3e8


def test_chance_is_the_product_of_the_marginals() -> None:
    seen, reference = np.array([0.0, 0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0, 1.0])
    means = one_hot_pair(seen, reference, 3).mean(axis=0)
    assert means[0] == 0.5
    assert chance_agreement(means) == pytest.approx(0.5 * 0.25 + 0.25 * 0.75)
    assert agreement_ratio(means) == pytest.approx(0.5 / 0.3125)


def test_independent_answers_agree_at_chance_and_copies_do_not() -> None:
    rng = np.random.default_rng(3)
    seen, reference = rng.integers(6, size=(2, 5000)).astype(float)
    assert agreement_ratio(one_hot_pair(seen, reference, 6).mean(0)) == pytest.approx(1.0, abs=0.1)
    assert agreement_ratio(one_hot_pair(reference, reference, 6).mean(0)) == pytest.approx(6.0, abs=0.1)


def test_nothing_in_common_is_no_ratio_of_zeros() -> None:
    assert agreement_ratio(one_hot_pair(np.zeros(3), np.ones(3), 2).mean(0)) == 0.0
