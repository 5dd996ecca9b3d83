"""The Frechet distance against closed forms, its symmetries and another implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from nigaoe.eval.metrics.distribution import merged_states
from nigaoe.eval.metrics.frechet import FrechetDistance, Gaussian, frechet_distance, is_rank_deficient
from nigaoe.eval.metrics.moments import Moments
from nigaoe.eval.metrics.space import FeatureSpace

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


def _with_exactly(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Samples whose own mean and covariance are these, not only on average."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T)
    return np.asarray((np.linalg.cholesky(covariance) @ white).T + mean)


def _metric(real: np.ndarray, fake: np.ndarray, batch: int = 7) -> FrechetDistance:
    metric = FrechetDistance(FeatureSpace("toy", real.shape[1], "f00d", "64px", str(real.dtype)))
    for x, is_real in ((real, True), (fake, False)):
        for start in range(0, len(x), batch):
            metric.update(torch.from_numpy(x[start : start + batch]), real=is_real)
    return metric


def test_the_metric_gives_commuting_gaussians_their_closed_form() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    a, b, mu = np.array([4.0, 1.0, 0.25, 2.0, 9.0]), np.array([1.0, 1.0, 2.25, 0.5, 4.0]), np.arange(5.0)
    real = _with_exactly(mu, rotation @ np.diag(a) @ rotation.T, 50, 1)
    fake = _with_exactly(-mu, rotation @ np.diag(b) @ rotation.T, 40, 2)
    expected = (4 * mu**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert _metric(real, fake).compute().item() == pytest.approx(expected, rel=1e-8)


def test_a_set_has_no_distance_to_itself_at_any_rank() -> None:
    for n in (10, 60, 400):
        x = 50 + _features(3, n, 64)
        gaussian = Gaussian.of_features(x)
        assert gaussian.distance(gaussian) <= 1e-10 * (1 + float((gaussian.factor**2).sum()))
        assert _metric(x, x[::-1].copy()).compute().item() <= 1e-8 * (1 + float((gaussian.factor**2).sum()))


def test_features_and_moments_give_the_same_gaussian() -> None:
    for n, m in ((20, 30), (20, 200), (200, 300)):
        x, y = _features(0, n, 48), _features(1, m, 48)
        by_features = Gaussian.of_features(x).distance(Gaussian.of_features(y))
        assert by_features == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y)), rel=1e-9)


def test_agrees_with_a_square_root_by_scipy() -> None:
    a, b = Moments.of(_features(0, 300, 24)), Moments.of(_features(1, 200, 24))
    root = linalg.sqrtm(a.covariance @ b.covariance)
    shift = a.mean - b.mean
    theirs = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(float(theirs), rel=1e-8)


def test_agrees_with_torchmetrics_own_metric_in_double_precision() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Identity(torch.nn.Module):
        num_features = 24

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    real, fake = _features(0, 300, 24), _features(1, 200, 24)
    theirs = fid.FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(real), real=True)
    theirs.update(torch.from_numpy(fake), real=False)
    assert _metric(real, fake).compute().item() == pytest.approx(theirs.compute().item(), rel=1e-8)


def test_the_mean_of_shards_distances_is_not_the_distance() -> None:
    real, fake = _features(0, 200, 8), _features(1, 200, 8)
    shards = [_metric(real[i::4], fake[i::4]) for i in range(4)]
    whole = FrechetDistance(shards[0].space)
    whole.merge(merged_states([shard.state() for shard in shards]))
    assert whole.compute().item() == pytest.approx(_metric(real, fake).compute().item(), rel=1e-10)
    mean = np.mean([shard.compute().item() for shard in shards])
    assert mean > 1.02 * whole.compute().item()


def test_rank_deficiency_is_told() -> None:
    full, poor = Moments.of(_features(0, 9, 8)), Moments.of(_features(0, 8, 8))
    assert np.linalg.matrix_rank(poor.covariance) < 8
    assert np.linalg.matrix_rank(full.covariance) == 8
    assert not is_rank_deficient(full, full)
    assert is_rank_deficient(full, poor)
    assert _metric(_features(0, 9, 8), _features(1, 8, 8)).is_rank_deficient


def test_float32_features_with_a_large_mean_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(1e3, scale, (400, 4)).astype(np.float32) for scale in (0.1, 0.2))
    shifted = [x.astype(np.float64) - 1e3 for x in (real, fake)]
    expected = Gaussian.of_features(shifted[0]).distance(Gaussian.of_features(shifted[1]))
    assert _metric(real, fake).compute().item() == pytest.approx(expected, rel=1e-9)


def test_a_sample_that_comes_again_in_another_batch_counts_once() -> None:
    real, fake = _features(0, 40, 5), _features(1, 40, 5)
    metric = _metric(real[:0], fake)
    metric.update(real[:25], real=True, ids=list(range(25)))
    metric.update(real[10:], real=True, ids=list(range(10, 40)))
    assert metric.compute().item() == pytest.approx(_metric(real, fake).compute().item(), rel=1e-10)
