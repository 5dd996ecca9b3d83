"""Figures over pairs: separation, the control with pairs mixed up, and the comparison of two systems."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.comparing import compare, sign_flip_p
from nigaoe.eval.metrics.items import Items
from nigaoe.eval.metrics.pairing import pair_control, wrong_partners
from nigaoe.eval.metrics.separation import auc, tpr_at_fpr

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30).map(np.array)


@given(SCORES, SCORES)
def test_auc_is_mann_whitney(right: np.ndarray, wrong: np.ndarray) -> None:
    expected = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert auc(right, wrong) == pytest.approx(expected, abs=1e-12)
    assert auc(wrong, right) == pytest.approx(1 - expected, abs=1e-12)


def test_auc_of_nothing_is_nothing() -> None:
    assert np.isnan(auc(np.array([]), np.ones(3)))
    assert auc(np.array([-np.inf, 2.0]), np.ones(3)) == 0.5


@given(SCORES, st.integers(0, 2**32 - 1), st.floats(0.01, 0.5))
def test_no_more_false_alarms_than_asked_for(right: np.ndarray, seed: int, fpr: float) -> None:
    wrong = np.random.default_rng(seed).integers(-5, 6, 200).astype(float)
    share = tpr_at_fpr(right, wrong, fpr)
    # The wrong pairs themselves, held against the same threshold, pass at no higher rate.
    assert tpr_at_fpr(wrong, wrong, fpr) <= fpr + 1e-12
    assert 0 <= share <= 1
    assert tpr_at_fpr(right + 100, wrong, fpr) == 1.0


def test_too_few_wrong_pairs_say_nothing_of_a_small_rate() -> None:
    assert np.isnan(tpr_at_fpr(np.ones(5), np.zeros(99), 0.01))
    assert tpr_at_fpr(np.ones(5), np.zeros(100), 0.01) == 1.0
    with pytest.raises(ValueError, match="outside"):
        tpr_at_fpr(np.ones(5), np.zeros(5), 1.0)


@given(st.integers(0, 200))
def test_wrong_partners_are_others_and_all_different(n: int) -> None:
    partners = wrong_partners(n)
    assert partners.shape == (n, min(16, max(0, n - 1)))
    for i, row in enumerate(partners):
        assert i not in row
        assert len(set(row.tolist())) == len(row)


def _control(gap: float, n: int = 40, higher_is_better: bool = True) -> tuple[float, bool]:
    rng = np.random.default_rng(0)
    matched, shuffled = rng.normal(gap, 1, n), rng.normal(0, 1, (n, 5))
    control = pair_control("it", matched, shuffled, [str(i) for i in range(n)], higher_is_better)
    return control.auc, control.is_broken


def test_a_metric_that_does_not_fall_is_broken() -> None:
    area, is_broken = _control(2.0)
    assert area > 0.85
    assert not is_broken
    assert _control(0.0)[1]
    assert _control(-2.0)[1]
    assert not _control(-2.0, higher_is_better=False)[1]


def test_a_metric_without_wrong_pairs_is_not_trusted() -> None:
    control = pair_control("it", np.ones(3), np.full((3, 2), np.nan), ["a", "b", "c"])
    assert control.is_broken
    assert "BROKEN" in control.line()


def test_samples_of_one_reference_count_as_one_in_the_control() -> None:
    # Two references, one of which got worse: many pictures are no evidence.
    matched = np.concatenate([np.full(50, 1.0), np.full(50, -0.5)])
    control = pair_control("it", matched, np.zeros((100, 2)), ["a"] * 50 + ["b"] * 50)
    assert control.is_broken


def _system(values: np.ndarray, groups: list[str] | None = None) -> Items:
    ids = tuple(f"{i:03d}" for i in range(len(values)))
    return Items("score", "clip 1", True, ids, tuple(groups or ids), values.astype(np.float64))


def test_a_real_difference_is_told_from_none() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(0, 5, 60)
    first = _system(common)
    better = compare(first, _system(common + rng.normal(0.5, 0.5, 60)))
    # Unpaired, a spread of 5 would hide it.
    assert better.second_is_better is True
    assert better.p < 0.001
    assert better.difference.value == pytest.approx(0.5, abs=0.2)
    same = compare(first, _system(common + rng.normal(0.0, 0.5, 60)))
    assert same.second_is_better is None
    assert same.p > 0.05
    lower = compare(replace(first, higher_is_better=False), replace(_system(common + 1), higher_is_better=False))
    assert lower.second_is_better is False


def test_p_is_exact_for_few_groups() -> None:
    differences = np.array([1.0, 2.0, 3.0, -0.5])
    # Of 16 sign patterns of (1, 2, 3, 0.5) the sum reaches 5.5 in absolute value in four: +++-, ++++ and their mirrors.
    assert sign_flip_p(differences, list("abcd")) == 4 / 16
    assert sign_flip_p(np.ones(8), list("abcdefgh")) == 2 / 256


def test_p_follows_groups_and_not_pictures() -> None:
    once = sign_flip_p(np.ones(6), list("abcdef"))
    many = sign_flip_p(np.ones(600), list("abcdef") * 100)
    assert once == many == 2 / 64


def test_p_is_right_where_nothing_differs() -> None:
    rng = np.random.default_rng(1)
    small = [sign_flip_p(rng.normal(size=10), list("abcdefghij")) <= 0.1 for _ in range(400)]
    assert 0.06 <= np.mean(small) <= 0.14


def test_what_is_not_comparable_is_refused() -> None:
    first, values = _system(np.arange(4.0)), np.arange(4.0)
    with pytest.raises(DataError, match="other samples"):
        compare(first, _system(np.arange(5.0)))
    with pytest.raises(DataError, match="not comparable"):
        compare(first, replace(_system(values), setting="clip 2"))
    with pytest.raises(DataError, match="another group"):
        compare(first, _system(values, groups=list("aabb")))
    with pytest.raises(DataError, match="no sample"):
        compare(first, _system(values * np.nan))


def test_samples_without_a_value_are_told() -> None:
    values = np.array([1.0, np.nan, 2.0, 3.0])
    comparison = compare(_system(np.zeros(4)), _system(values))
    assert comparison.left_out == 1
    assert comparison.difference.n == 3
