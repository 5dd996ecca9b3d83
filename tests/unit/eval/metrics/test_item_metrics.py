"""Per-picture metrics keep each sample once, whoever scored it, in whatever order, however often."""

import copy
import pickle
import random
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from torch.multiprocessing.spawn import spawn

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.item_metric import ItemMetric
from nigaoe.eval.metrics.items import Items


class Given(ItemMetric):
    """Scores are what they are said to be."""

    higher_is_better = True

    def __init__(self, setting: str = "ruler 1", **kwargs: Any) -> None:
        super().__init__("given", setting, **kwargs)

    def update(self, values: list[float], ids: list[str], groups: list[str] | None = None) -> None:
        self._keep(ids, groups, np.array(values, np.float64).reshape(-1, 1))

    def items(self) -> Items:
        seen = self._table()
        values = seen.rows.reshape(-1).astype(np.float64)
        return Items(self.name, self.setting, True, seen.ids, seen.groups, values, seen.failed)


def _filled(values: list[float], first: int = 0) -> Given:
    metric = Given()
    if values:
        metric.update(values, [f"{first + i:04d}" for i in range(len(values))])
    return metric


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
    st.lists(st.integers(0, 20), max_size=5),
    st.randoms(use_true_random=False),
)
def test_no_partition_order_or_repetition_moves_a_bit(values: list[float], cuts: list[int], rng: random.Random) -> None:
    whole = _filled(values)
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    parts = [_filled(values[a:b], a) for a, b in zip(edges, edges[1:], strict=False)]
    parts += [_filled([]), copy.deepcopy(rng.choice(parts))]
    rng.shuffle(parts)
    merged = Given()
    for part in parts:
        merged.merge_state(pickle.loads(pickle.dumps(part.metric_state)))
    assert merged.items().ids == whole.items().ids
    assert np.array_equal(merged.items().values, whole.items().values)
    assert torch.equal(merged.compute(), whole.compute())


def test_a_merge_is_noticed_after_a_figure_was_given() -> None:
    metric = _filled([1.0])
    assert metric.compute() == 1.0
    metric.merge_state(_filled([3.0], first=1))
    assert metric.compute() == 2.0
    fresh = Given()
    fresh.merge_state(metric)
    assert fresh.compute() == 2.0
    assert fresh.update_count == 2


def test_other_weights_and_other_metrics_are_refused_before_anything_changes() -> None:
    metric = _filled([1.0])
    other = Given(setting="ruler 2")
    other.update([2.0], ["b"])
    for incoming in (other, other.metric_state, Given(setting="ruler 2")):
        with pytest.raises(DataError, match=r"ruler 1.*ruler 2"):
            metric.merge_state(incoming)
    assert metric.items().ids == ("0000",)

    class Else(ItemMetric):
        def update(self) -> None: ...

        def items(self) -> Items:
            raise AssertionError

    with pytest.raises(DataError, match="Else"):
        metric.merge_state(Else("given", "ruler 1"))


def test_one_id_for_two_pictures_is_refused() -> None:
    metric = _filled([1.0])
    metric.update([1.5], ["0000"])
    with pytest.raises(DataError, match="'0000'"):
        metric.compute()
    metric = _filled([1.0])
    metric.update([1.0], ["0000"], ["somebody else"])
    with pytest.raises(DataError, match="'0000'"):
        metric.items()


def test_failures_are_counted_and_never_averaged() -> None:
    metric = _filled([1.0, 3.0])
    metric.fail(["broken-1", "broken-2"])
    metric.fail(["broken-1"])
    assert metric.compute() == 2.0
    items = metric.items()
    assert items.failed == ("broken-1", "broken-2")
    assert items.coverage == 0.5
    assert len(items.rows()) == 4
    # A retry that went well.
    metric.update([5.0], ["broken-1"])
    assert metric.compute() == 3.0
    assert metric.items().failed == ("broken-2",)


def test_nothing_to_score_is_no_zero() -> None:
    metric = _filled([1.0, float("nan")])
    assert metric.compute() == 1.0
    assert metric.items().coverage == 0.5
    assert metric.items().estimate().n == 1
    nothing = _filled([float("nan")])
    assert torch.isnan(nothing.compute())
    with pytest.raises(DataError, match="no value"):
        nothing.items().estimate()


def test_infinite_scores_and_unnamed_samples_are_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        _filled([float("inf")])
    for ids in (["a\nb"], [""]):
        with pytest.raises(DataError, match="id of a sample"):
            Given().update([1.0], ids)
    with pytest.raises(DataError, match="2 ids"):
        Given().update([1.0], ["a", "b"])


def test_a_step_gives_its_own_figure_and_keeps_all() -> None:
    metric = Given()
    assert metric([1.0, 2.0], ["a", "b"]) == 1.5
    assert metric([6.0], ["c"]) == 6.0
    assert metric.compute() == 3.0
    metric.reset()
    assert metric.items().ids == ()


def test_groups_are_what_a_bootstrap_resamples() -> None:
    metric = Given()
    metric.update([0.0, 0.0, 1.0, 1.0], list("abcd"), ["x", "x", "y", "y"])
    estimate = metric.items().estimate()
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_a_plot_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.utilities.plot._MATPLOTLIB_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        _filled([1.0]).plot()


def test_a_plot_shows_one_figure_or_those_of_several_steps() -> None:
    metric = _filled([1.0, 2.0])
    one, axes = metric.plot()
    assert [line.get_ydata() for line in axes.lines] == [1.5]
    assert axes.get_ylabel() == "given"
    several, axes = metric.plot([metric.compute(), 2 * metric.compute()])
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.5, 3.0]]
    for figure in (one, several):
        pyplot.close(figure)


def _gather(rank: int, port: int, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    # The last one saw nothing, and the second did a sample of the first one's again.
    metric = [_filled([1.0, 2.0]), _filled([2.0, 6.0], first=1), _filled([])][rank]
    if rank == 2:
        metric.fail(["broken"])
    figure = metric.compute()
    with metric.sync_context():
        items = metric.items()
    if rank == 0:
        torch.save([figure.item(), items.ids, items.failed, metric.items().ids], out)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_processes_gather_what_each_of_them_saw(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_gather, args=(port, tmp_path / "seen"), nprocs=3)
    figure, ids, failed, own = torch.load(tmp_path / "seen", weights_only=True)
    assert figure == 3.0
    assert ids == ("0000", "0001", "0002")
    assert failed == ("broken",)
    assert own == ("0000", "0001")
