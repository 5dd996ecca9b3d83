"""All metrics of distributions: neither shards, nor order, nor repeated work move a figure, and nothing is mixed."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.cmmd import ClipMmd
from nigaoe.eval.metrics.density_coverage import DensityCoverage
from nigaoe.eval.metrics.distribution import DistributionMetric, merged_states
from nigaoe.eval.metrics.frechet import FrechetDistance
from nigaoe.eval.metrics.frechet_infinity import FrechetInfinity
from nigaoe.eval.metrics.kid import KernelDistance
from nigaoe.eval.metrics.precision_recall import PrecisionRecall
from nigaoe.eval.metrics.space import FeatureSpace

SPACE = FeatureSpace("toy", 6, "f00d", "64px lanczos")
METRICS = [FrechetDistance, FrechetInfinity, KernelDistance, ClipMmd, PrecisionRecall, DensityCoverage]
Make = Callable[[FeatureSpace], DistributionMetric[Any]]

_rng = np.random.default_rng(5)
REAL = _rng.normal(0.3, 1.0, (60, 6)).astype(np.float32)
FAKE = _rng.normal(0.0, 1.2, (50, 6)).astype(np.float32)


def _seen(make: Make, real: list[int], fake: list[int]) -> DistributionMetric[Any]:
    metric = make(SPACE)
    metric.update(torch.from_numpy(REAL[real]), real=True, ids=real)
    metric.update(FAKE[fake], real=False, ids=fake)
    return metric


def _figures(metric: DistributionMetric[Any]) -> list[float]:
    value = metric.compute()
    return [float(x) for x in (value.values() if isinstance(value, dict) else [value])]


def _shards(count: int, cuts: list[int]) -> list[list[int]]:
    bounds = [0, *sorted(cut % count for cut in cuts), count]
    return [list(range(a, b)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


@pytest.mark.parametrize("make", METRICS)
@settings(max_examples=12)
@given(st.lists(st.integers(1, 10**6), max_size=5), st.randoms(use_true_random=False))
def test_shards_order_and_repetition_do_not_matter(make: Make, cuts: list[int], random: Any) -> None:
    shards = list(zip(_shards(60, cuts), _shards(50, cuts), strict=True))
    states = [_seen(make, *shard).state() for shard in shards]
    given_again = [*states, *states[:2]]
    random.shuffle(given_again)
    merged = make(SPACE)
    merged.merge(*given_again)
    whole = _seen(make, list(range(60)), list(range(50)))
    assert _figures(merged) == pytest.approx(_figures(whole), rel=1e-10)
    in_order = make(SPACE)
    in_order.merge(*states)
    assert _figures(merged) == _figures(in_order), "the same shards must give the same bits"


@pytest.mark.parametrize("make", METRICS[1:])
def test_where_features_are_kept_any_shards_give_the_same_bits(make: Make) -> None:
    merged = make(SPACE)
    halves = [(list(range(30, 60)), [1, 3]), (list(range(30)), [0, 2, *range(4, 50)])]
    merged.merge(*(_seen(make, *half).state() for half in halves))
    assert _figures(merged) == _figures(_seen(make, list(range(60)), list(range(50))))


@pytest.mark.parametrize("make", METRICS)
def test_merging_in_a_tree_is_the_same_as_all_at_once(make: Make) -> None:
    a, b, c = (_seen(make, list(range(i, 60, 3)), list(range(i, 50, 3))).state() for i in range(3))
    one, two = make(SPACE), make(SPACE)
    one.merge(merged_states([merged_states([c, a]), b]))
    two.merge(a, b, c)
    assert _figures(one) == pytest.approx(_figures(two), rel=1e-10)


@pytest.mark.parametrize("make", METRICS)
def test_a_merge_is_noticed(make: Make) -> None:
    first = _seen(make, list(range(30)), list(range(25)))
    before = _figures(first)
    first.merge_state(_seen(make, list(range(30, 60)), list(range(25, 50))))
    assert _figures(first) != before
    fresh = make(SPACE)
    fresh.merge_state(first)
    assert fresh.update_called
    assert _figures(fresh) == _figures(first)
    fresh.reset()
    assert len(fresh.state().real.ids) == 0


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "beef"}, "fingerprint 'f00d' and 'beef'"),
        ({"preprocessing": "64px bicubic"}, "preprocessing"),
        ({"dtype": "bfloat16"}, "dtype 'float32' and 'bfloat16'"),
        ({"dim": 5}, "dim 6 and 5"),
    ],
)
def test_states_of_another_space_are_refused(make: Make, change: dict[str, Any], words: str) -> None:
    metric = _seen(make, list(range(20)), list(range(20)))
    before = _figures(metric)
    with pytest.raises(DataError, match=words):
        metric.merge(make(replace(SPACE, **change)).state())
    assert _figures(metric) == before


def test_states_of_another_kind_and_bare_dicts_are_refused() -> None:
    metric = FrechetDistance(SPACE)
    with pytest.raises(DataError, match="cannot merge a state of Samples"):
        metric.merge(KernelDistance(SPACE).state())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cannot merge a dict"):
        metric.merge_state(FrechetDistance(SPACE).metric_state)


@pytest.mark.parametrize("make", METRICS)
def test_a_state_survives_a_pickle_and_read_only_memory(make: Make) -> None:
    metric = _seen(make, list(range(60)), list(range(50)))
    state = pickle.loads(pickle.dumps(metric.state()))
    # Ray hands out arrays that cannot be written to.
    for part in (state.real, state.fake):
        arrays = [part.ids] + ([part.moments.mean, part.moments.m2] if hasattr(part, "moments") else [part.features])
        for array in arrays:
            array.setflags(write=False)
    fresh = make(SPACE)
    fresh.merge(state)
    fresh.update(REAL[:4], real=True, ids=[0, 1, 2, 3])
    assert _figures(fresh) == _figures(metric)


@pytest.mark.parametrize("make", METRICS)
def test_too_few_samples_are_named(make: Make) -> None:
    with pytest.raises(DataError, match=r"there are (0|1)|not 15, 0 and 0"):
        _seen(make, [], []).compute()


@pytest.mark.parametrize("make", METRICS)
def test_a_batch_has_no_value_of_its_own(make: Make) -> None:
    with pytest.raises(ValueError, match="no value per batch"):
        make(SPACE)(REAL, True)


@pytest.mark.parametrize("make", METRICS)
def test_an_extractor_is_asked_for_features(make: Make) -> None:
    looking = make(SPACE)
    looking.extractor = lambda pictures: pictures.flatten(1)[:, :6]
    looking.update(torch.from_numpy(REAL).reshape(60, 2, 3), real=True)
    looking.update(torch.from_numpy(FAKE).reshape(50, 2, 3), real=False)
    assert _figures(looking) == pytest.approx(_figures(_seen(make, list(range(60)), list(range(50)))), rel=1e-10)


def test_plots_need_matplotlib_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.utilities.plot._MATPLOTLIB_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        _seen(PrecisionRecall, list(range(60)), list(range(50))).plot()


@pytest.mark.parametrize("make", METRICS)
def test_a_plot_shows_each_figure_and_which_is_best(make: Make) -> None:
    metric = _seen(make, list(range(60)), list(range(50)))
    figure, axes = metric.plot()
    assert axes.get_ylabel() == metric.name
    drawn = [float(line.get_ydata()[0]) for line in axes.lines]
    assert drawn == pytest.approx(_figures(metric), rel=1e-12)
    if isinstance(figures := metric.compute(), dict):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(figures)
    figure.draw_without_rendering()
    frame = figure.bbox
    inside = [figure.axes[0].get_tightbbox(), *(text.get_window_extent() for text in axes.texts)]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1 for box in inside)
    # Beside the marks, not over them.
    assert all(text.get_window_extent().x0 >= axes.bbox.x1 for text in axes.texts)
    pyplot.close(figure)


def test_names_tell_the_extractor() -> None:
    names = [make(SPACE).name for make in METRICS]
    assert names == [
        "fd_toy",
        "fd_infinity_toy",
        "kd_toy",
        "cmmd_toy",
        "precision_recall_toy",
        "density_coverage_toy",
    ]
    assert ClipMmd(SPACE, is_unbiased=True).name == "cmmd_unbiased_toy"
