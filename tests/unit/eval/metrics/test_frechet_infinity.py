"""The distance falls with the number of samples; what is extrapolated hardly does."""

import numpy as np
import pytest

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.frechet import Gaussian
from nigaoe.eval.metrics.frechet_infinity import FrechetInfinity, SizePoint, extrapolated, sample_size_curve
from nigaoe.eval.metrics.space import FeatureSpace


def _normal(seed: int, n: int, dim: int = 16, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, dim))


def test_a_line_in_1_over_n_gives_its_intercept() -> None:
    curve = [SizePoint(n, 2.5 + 300 / n) for n in (100, 150, 400, 1000)]
    assert extrapolated(curve) == pytest.approx(2.5, rel=1e-12)


def test_the_distance_of_equal_distributions_is_constant_over_n() -> None:
    reference = Gaussian.of_features(_normal(10**6, 40_000))
    products = [
        n * np.mean([reference.distance(Gaussian.of_features(_normal(1000 * n + s, n))) for s in range(20)])
        for n in (100, 400, 1600)
    ]
    assert max(products) / min(products) < 1.25


def test_extrapolation_takes_the_bias_away() -> None:
    real, dim = _normal(10**6, 40_000), 16
    curve = sample_size_curve(real, _normal(3, 2000, shift=0.1), smallest=200)
    truth = dim * 0.1**2
    assert curve[0].n == 200
    assert curve[-1].n == 2000
    assert len(curve) == 15
    assert curve[-1].distance - truth > 0.05
    assert abs(extrapolated(curve) - truth) < 0.4 * (curve[-1].distance - truth)


def test_the_same_samples_give_the_same_curve() -> None:
    x, y = _normal(0, 60), _normal(1, 60)
    assert sample_size_curve(x, y) == sample_size_curve(x, y)


def test_the_metric_gives_the_intercept_of_its_curve() -> None:
    metric = FrechetInfinity(FeatureSpace("toy", 16, "f00d", "64px", "float64"), points=5, smallest=20)
    metric.update(_normal(0, 100), real=True)
    metric.update(_normal(1, 80), real=False)
    assert [point.n for point in metric.curve()] == [20, 35, 50, 65, 80]
    assert metric.compute().item() == extrapolated(metric.curve())


def test_too_little_for_a_line_is_refused() -> None:
    with pytest.raises(DataError, match="2 points and 4 samples a side or more, not 1, 9 and 9"):
        sample_size_curve(_normal(0, 9), _normal(1, 9), points=1)
