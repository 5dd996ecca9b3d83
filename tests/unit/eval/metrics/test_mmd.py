"""KID and CMMD against sums written out, closed forms, and what unbiased and 95 % mean."""

import numpy as np
import pytest
import torch

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.cmmd import ClipMmd, cmmd
from nigaoe.eval.metrics.kid import KernelDistance, cubic_kernel
from nigaoe.eval.metrics.mmd import mmd2
from nigaoe.eval.metrics.space import FeatureSpace


def _normal(seed: int, n: int, dim: int = 8, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, dim))


def test_kid_is_the_sum_over_all_pairs_written_out() -> None:
    x, y = _normal(0, 7, 3), _normal(1, 5, 3, 0.5)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    own_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    own_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    found = mmd2(x, y, cubic_kernel, is_unbiased=True)
    assert found.value == pytest.approx(own_x + own_y - 2 * across, rel=1e-12)


def test_the_interval_is_that_of_leaving_one_out_written_out() -> None:
    x, y = _normal(0, 6, 3), _normal(1, 9, 3, 0.5)
    for is_unbiased in (True, False):
        variance = 0.0
        for side in (0, 1):
            n = len((x, y)[side])
            values = []
            for i in range(n):
                rest = [np.delete(part, i, axis=0) if which == side else part for which, part in enumerate((x, y))]
                values.append(mmd2(rest[0], rest[1], cubic_kernel, is_unbiased).value)
            variance += (n - 1) / n * float(((np.array(values) - np.mean(values)) ** 2).sum())
        found = mmd2(x, y, cubic_kernel, is_unbiased)
        assert found.high is not None
        assert found.high - found.value == pytest.approx(1.96 * np.sqrt(variance), rel=1e-10)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = _normal(0, 70), _normal(1, 50, shift=0.3)
    whole = mmd2(x, y, cubic_kernel, is_unbiased=True)
    monkeypatch.setattr("nigaoe.eval.metrics.mmd._ROWS", 16)
    assert mmd2(x, y, cubic_kernel, is_unbiased=True).value == pytest.approx(whole.value, rel=1e-12)


def test_kid_is_unbiased_at_any_size() -> None:
    for n in (10, 80):
        values = [mmd2(_normal(2 * s, n), _normal(2 * s + 1, n), cubic_kernel, True).value for s in range(200)]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    truth = mmd2(_normal(10**6, 3000), _normal(10**6 + 1, 3000, shift=0.5), cubic_kernel, True).value
    covered = 0
    for seed in range(120):
        found = mmd2(_normal(2 * seed, 100), _normal(2 * seed + 1, 120, shift=0.5), cubic_kernel, True)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 120 <= 0.995


def test_agrees_with_torchmetrics_on_one_subset_of_all_in_double_precision() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = _normal(0, 90), _normal(1, 90, shift=0.2)
    theirs = kid.poly_mmd(torch.from_numpy(x), torch.from_numpy(y), 3, None, 1.0).item()
    assert mmd2(x, y, cubic_kernel, is_unbiased=True).value == pytest.approx(theirs, rel=1e-10)


def test_cmmd_of_two_points_is_the_closed_form() -> None:
    x, y = np.tile([[3.0, 0.0]], (5, 1)), np.tile([[0.0, 7.0]], (4, 1))
    # Scaled to length 1 they are sqrt 2 apart: 1000 (1 + 1 - 2 exp(-2 / 200)).
    for is_unbiased in (False, True):
        assert cmmd(x, y, is_unbiased).value == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-8)
    assert cmmd(x, x).value == pytest.approx(0.0, abs=1e-9)


def test_cmmd_as_published_falls_with_the_number_of_samples_and_unbiased_does_not() -> None:
    published = [np.mean([cmmd(_normal(2 * s, n), _normal(2 * s + 1, n)).value for s in range(60)]) for n in (20, 80)]
    assert published[0] / published[1] == pytest.approx(4.0, rel=0.2)
    unbiased = [cmmd(_normal(2 * s, 20), _normal(2 * s + 1, 20), is_unbiased=True).value for s in range(60)]
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / np.sqrt(60)


def test_both_rise_with_noise() -> None:
    x = _normal(0, 300, shift=1.0)
    noisy = [x + level * _normal(1, 300) for level in (0.1, 0.5, 1.0, 2.0)]
    for values in ([mmd2(x, y, cubic_kernel, True).value for y in noisy], [cmmd(x, y).value for y in noisy]):
        assert values == sorted(values)


def test_no_direction_and_too_few_are_refused() -> None:
    with pytest.raises(DataError, match="1 embeddings are zero"):
        cmmd(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), _normal(0, 4, 2))
    with pytest.raises(DataError, match="3 samples a side"):
        cmmd(_normal(0, 2), _normal(1, 9))


def test_metrics_give_the_functions_values() -> None:
    space = FeatureSpace("toy", 8, "f00d", "64px", "float64")
    x, y = _normal(0, 30), _normal(1, 20, shift=0.3)
    kid, clip = KernelDistance(space), ClipMmd(space, is_unbiased=True)
    for metric in (kid, clip):
        metric.update(x, real=True)
        metric.update(y, real=False)
    assert kid.compute().item() == mmd2(x, y, cubic_kernel, is_unbiased=True).value
    assert clip.compute().item() == cmmd(x, y, is_unbiased=True).value
    assert kid.estimate().n == 20
