"""Precision, recall, density and coverage where the answer is known."""

import numpy as np
import pytest

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.density_coverage import density_coverage
from nigaoe.eval.metrics.neighbours import radii
from nigaoe.eval.metrics.precision_recall import precision_recall


def _normal(seed: int, n: int, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


def _naive(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(((a[:, None] - b[None]) ** 2).sum(axis=2))

    own_real, own_fake = (np.sort(squared(x, x), axis=1)[:, k] for x in (real, fake))
    across = squared(real, fake)
    return (
        float((across <= own_real[:, None]).any(axis=0).mean()),
        float((across <= own_fake).any(axis=1).mean()),
        float((across <= own_real[:, None]).sum(axis=0).mean() / k),
        float((across.min(axis=1) <= own_real).mean()),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_the_definitions_written_out(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nigaoe.eval.metrics.neighbours._ROWS", 32)
    real, fake = _normal(0, 90), _normal(1, 70) * 0.8 + 0.4
    assert (*precision_recall(real, fake, k), *density_coverage(real, fake, k)) == pytest.approx(_naive(real, fake, k))


def test_identical_sets_have_all() -> None:
    x = _normal(0, 100)
    assert precision_recall(x, x) == (1.0, 1.0)
    density, coverage = density_coverage(x, x)
    assert coverage == 1.0
    assert density == pytest.approx(6 / 5), "each lies in its own ball and in those of whom it is a near neighbour"


def test_fakes_of_one_mode_are_precise_and_miss_the_rest() -> None:
    here, there = _normal(0, 60), _normal(1, 60) + 50
    precision, recall = precision_recall(np.concatenate([here, there]), here[:40])
    assert precision == 1.0
    assert 0.3 < recall <= 0.5
    assert 0.3 < density_coverage(np.concatenate([here, there]), here[:40])[1] <= 0.5


@pytest.mark.parametrize("dim", [6, 700])
def test_copies_of_few_pictures_recall_only_these(dim: int) -> None:
    # Far from the origin, where lengths and products round differently.
    real = _normal(0, 100, dim) + 100.0
    copies = np.repeat(real[:4], 25, axis=0)
    assert not radii(copies, 3).any()
    assert precision_recall(real, copies) == (1.0, 0.04)


def test_distant_fakes_buy_recall_but_no_coverage() -> None:
    real, fake = _normal(0, 200), _normal(1, 20) * 0.01
    bought = np.concatenate([fake, np.full((1, 6), 1000.0), np.full((1, 6), -1000.0)])
    assert precision_recall(real, fake)[1] < 0.05
    assert precision_recall(real, bought)[1] > 0.95
    assert density_coverage(real, bought)[1] == density_coverage(real, fake)[1]


def test_equal_distributions_have_density_1_and_coverage_of_all_but_2_to_the_minus_k() -> None:
    density, coverage = density_coverage(_normal(0, 3000, 3), _normal(1, 3000, 3))
    assert density == pytest.approx(1.0, abs=0.03)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.012)


def test_neighbours_need_more_than_k_samples() -> None:
    with pytest.raises(DataError, match="the 3-th neighbour needs more than 3 samples, there are 3"):
        radii(_normal(0, 3), 3)
