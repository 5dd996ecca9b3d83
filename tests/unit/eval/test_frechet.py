"""The Frechet distance against closed forms, its symmetries and another implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nigaoe.eval.frechet import frechet_distance
from nigaoe.eval.scoring.moments import Moments

SEEDS = st.integers(0, 2**32 - 1)


def _gaussian(mean: np.ndarray, covariance: np.ndarray, n: int = 1000) -> Moments:
    return Moments(n, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (n - 1))


def _features(seed: int, n: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim), -1.0)


def _tolerance(*sides: Moments) -> float:
    return 1e-9 * (1 + sum(float(np.trace(side.covariance)) for side in sides))


def test_diagonal_gaussians_match_the_closed_form() -> None:
    mu, nu, a, b = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.25])
    expected = ((mu - nu) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(_gaussian(mu, np.diag(a)), _gaussian(nu, np.diag(b))) == pytest.approx(expected, rel=1e-12)


def test_one_dimension() -> None:
    distance = frechet_distance(
        _gaussian(np.array([3.0]), np.array([[4.0]])), _gaussian(np.array([1.0]), np.array([[0.25]]))
    )
    assert distance == pytest.approx((3 - 1) ** 2 + (2 - 0.5) ** 2, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(3, 40), st.integers(3, 40), st.integers(1, 20))
def test_symmetry_and_zero_at_identity(seed: int, n: int, m: int, dim: int) -> None:
    a, b = Moments.of(_features(seed, n, dim)), Moments.of(_features(seed + 1, m, dim))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=_tolerance(a, b))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=_tolerance(a))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(3, 30), st.integers(2, 16), st.floats(0.1, 10.0))
def test_rotation_translation_and_scale(seed: int, n: int, dim: int, scale: float) -> None:
    x, y = _features(seed, n, dim), _features(seed + 1, n + 5, dim)
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    shift = rng.normal(size=dim)
    before = frechet_distance(Moments.of(x), Moments.of(y))
    a, b = (Moments.of((side @ rotation + shift) * scale) for side in (x, y))
    assert frechet_distance(a, b) == pytest.approx(scale**2 * before, rel=1e-7, abs=10 * _tolerance(a, b))


def test_fewer_samples_than_features_match_the_exact_form() -> None:
    x, y = _features(0, 12, 64), _features(1, 20, 64)
    centred = [(side - side.mean(0)) / np.sqrt(len(side) - 1) for side in (x, y)]
    overlap = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + sum((side**2).sum() for side in centred) - 2 * overlap
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(exact, rel=1e-9)


def test_agrees_with_torchmetrics_at_full_rank() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = Moments.of(_features(0, 300, 32)), Moments.of(_features(1, 400, 32))
    sides = [torch.from_numpy(value) for side in (a, b) for value in (side.mean, side.covariance)]
    theirs = fid._compute_fid(*sides).item()
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-8)


def test_different_features_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and of 3 features"):
        frechet_distance(_gaussian(np.zeros(2), np.eye(2)), _gaussian(np.zeros(3), np.eye(3)))
