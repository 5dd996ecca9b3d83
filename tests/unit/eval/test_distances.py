"""What a report says of two crowds is what the metrics say that anybody may use by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from made_shards import space_of_width
from nigaoe.core.reports import Cell, Estimate, Report, read_report
from nigaoe.eval.findings.distances import Distances, distances, halves
from nigaoe.eval.metrics.cmmd import ClipMmd
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.density_coverage import DensityCoverage
from nigaoe.eval.metrics.frechet import FrechetDistance, Gaussian
from nigaoe.eval.metrics.frechet_infinity import FrechetInfinity
from nigaoe.eval.metrics.kid import KernelDistance
from nigaoe.eval.metrics.precision_recall import PrecisionRecall
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.running.merging import Side


def _features(n: int, dim: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(n, dim)) + shift).astype(np.float32)


def _side(space: FeatureSpace, features: NDArray[np.float32], kept: int | None = None) -> Side:
    ids = [f"{i:04d}" for i in range(len(features))]
    whole = Samples.of(space, features, ids)
    return Side(Samples.of(space, features[:kept], ids[:kept]), CountedMoments.of(whole))


def _by_hand(metric: FrechetDistance | KernelDistance | ClipMmd, real: np.ndarray, fake: np.ndarray) -> float:
    metric.update(real, real=True, ids=[f"{i:04d}" for i in range(len(real))])
    metric.update(fake, real=False, ids=[f"{i:04d}" for i in range(len(fake))])
    return float(metric.compute())


def _figures(found: Distances) -> dict[str, float]:
    return {name: figure.value for name, figure in found.figures.items()}


def test_figures_are_those_of_the_metrics() -> None:
    space = space_of_width(4, "clip")
    real, fake = _features(60, 4, 0), _features(50, 4, 1, shift=0.3)
    found = distances({"clip": _side(space, real)}, {"clip": _side(space, fake)})
    figures = _figures(found)
    ids = {True: [f"{i:04d}" for i in range(60)], False: [f"{i:04d}" for i in range(50)]}
    assert figures["fd_clip"] == pytest.approx(_by_hand(FrechetDistance(space), real, fake), rel=1e-12)
    assert figures["kd_clip"] == pytest.approx(_by_hand(KernelDistance(space), real, fake), rel=1e-12)
    assert figures["cmmd_clip"] == pytest.approx(_by_hand(ClipMmd(space), real, fake), rel=1e-12)
    for metric in (PrecisionRecall(space), DensityCoverage(space)):
        metric.update(real, real=True, ids=ids[True])
        metric.update(fake, real=False, ids=ids[False])
        for word, value in metric.compute().items():
            assert figures[f"{word}_clip"] == float(value)
    curve = FrechetInfinity(space, points=8, smallest=12)
    curve.update(real, real=True, ids=ids[True])
    curve.update(fake, real=False, ids=ids[False])
    assert figures["fd_infinity_clip"] == pytest.approx(float(curve.compute()), rel=1e-9)
    points = found.curves["fd_clip"]
    assert points[-1].n == 50
    assert points[-1].distance == pytest.approx(figures["fd_clip"], rel=1e-9)
    assert {figure.n for figure in found.figures.values()} == {50}
    assert len(figures) == 8


def test_only_networks_that_both_sides_were_seen_through_are_compared() -> None:
    net, clip = space_of_width(4), space_of_width(4, "clip")
    one = {"net": _side(net, _features(20, 4, 0)), "clip": _side(clip, _features(20, 4, 0))}
    found = distances(one, {"clip": _side(clip, _features(20, 4, 1)), "vit": _side(net, _features(20, 4, 1))})
    assert all(name.endswith("_clip") for name in found.figures)
    # CMMD is a figure of CLIPs alone.
    assert not any(name.startswith("cmmd") for name in distances(one, {"net": one["net"]}).figures)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_fewer_samples_than_features_are_exact_and_equal_their_moments(
    monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    space = space_of_width(64)
    real, fake = _features(40, 64, 0), _features(30, 64, 1, shift)
    # The same samples, less those that would allow the exact form.
    moments = _figures(distances({"net": _side(space, real, kept=7)}, {"net": _side(space, fake, kept=7)}))["fd_net"]
    few = {"net": _side(space, real)}, {"net": _side(space, fake)}

    def must_not(*_: object) -> Gaussian:
        raise AssertionError("moments were decomposed, which is slow and less exact")

    monkeypatch.setattr(Gaussian, "of_moments", must_not)
    exact = _figures(distances(*few))["fd_net"]
    assert exact == pytest.approx(Gaussian.of_features(real).distance(Gaussian.of_features(fake)), rel=1e-12)
    assert moments == pytest.approx(exact, rel=1e-6)
    assert _figures(distances(few[0], few[0]))["fd_net"] == pytest.approx(0, abs=1e-9)


def test_figures_of_kept_samples_say_how_many_these_are() -> None:
    space = space_of_width(4)
    real, fake = _side(space, _features(100, 4, 0)), _side(space, _features(90, 4, 1), kept=40)
    found = distances({"net": real}, {"net": fake}).figures
    assert found.pop("fd_net").n == 90
    assert {figure.n for figure in found.values()} == {40}


def test_halves_are_every_other_sample() -> None:
    space = space_of_width(3)
    features = _features(9, 3, 0)
    side = _side(space, features)
    one, other = halves(side)
    assert (len(one.kept.ids), len(other.kept.ids)) == (5, 4)
    assert sorted([*one.kept.ids, *other.kept.ids]) == list(side.kept.ids)
    for half in (one, other):
        rows = np.flatnonzero(np.isin(side.kept.ids, half.kept.ids))
        assert np.array_equal(half.kept.features, side.kept.features[rows])
        assert half.moments.moments.n == len(rows)
        assert half.has_all
    # What is not kept is in neither.
    one, other = halves(_side(space, features, kept=4))
    assert one.moments.moments.n + other.moments.moments.n == 4


@pytest.mark.parametrize(
    ("n_real", "n_fake", "names"),
    [
        (0, 9, set()),
        (1, 9, set()),
        (9, 1, set()),
        (2, 2, {"fd_net"}),
        (9, 7, {"fd_net"}),
        (7, 9, {"fd_net"}),
        (8, 8, {f"{word}_net" for word in ["fd", "fd_infinity", "kd", "precision", "recall", "density", "coverage"]}),
    ],
)
def test_too_few_samples_leave_figures_out(n_real: int, n_fake: int, names: set[str]) -> None:
    space = space_of_width(3)
    found = distances({"net": _side(space, _features(n_real, 3, 0))}, {"net": _side(space, _features(n_fake, 3, 1))})
    assert set(found.figures) == names
    assert all(np.isfinite(figure.value) for figure in found.figures.values())


def _report(figures: Mapping[str, Estimate], found: Distances) -> Report:
    cell = Cell(
        name="c",
        title="C",
        base=None,
        adapter=None,
        prompt=None,
        n=8,
        metrics=dict(figures),
        size_curves=found.curves,
    )
    return Report(title="t", cells=[cell])


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        (_features(8, 3, 0), _features(8, 3, 1)),
        (np.zeros((8, 3), np.float32) + 1, np.zeros((8, 3), np.float32) + 2),
        (_features(8, 3, 0) * 1e-20, _features(8, 3, 1) * 1e-20),
        (_features(8, 3, 0) * 1e15, _features(8, 3, 1) * 1e15),
    ],
    ids=["usual", "one picture many times", "tiny", "huge"],
)
def test_nothing_but_numbers_enters_a_report(tmp_path: Path, real: np.ndarray, fake: np.ndarray) -> None:
    space = space_of_width(3, "clip")
    found = distances({"clip": _side(space, real)}, {"clip": _side(space, fake)})
    assert found.figures
    for figure in found.figures.values():
        assert all(np.isfinite(value) for value in (figure.value, figure.low or 0.0, figure.high or 0.0))
    report = _report(found.figures, found)
    (tmp_path / "report.json").write_text(report.model_dump_json())
    assert read_report(tmp_path / "report.json") == report
