"""However a cell was divided, what is merged is what one pass over its samples would have found."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from made_shards import made, space_of_width, stored, tasks_of
from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.moments import Moments
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.protocols.protocol import CellPlan
from nigaoe.eval.running import merging
from nigaoe.eval.running.merging import merge_cell
from nigaoe.eval.running.shards import ShardResult, ShardStore, ShardTask

N, D = 60, 6
# A mean a thousand deviations from 0, where raw sums of squares would lose digits.
X = (1000 + np.random.default_rng(1).normal(size=(N, D))).astype(np.float32)
CELL = CellPlan("cell", "", "generation", N)
IDS = [f"sample-{i}" for i in range(N)]


def _difference(found: Moments, wanted: Moments) -> float:
    """The largest, in shares of the largest number."""
    assert found.n == wanted.n
    pairs = ((found.mean, wanted.mean), (found.m2, wanted.m2))
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    cuts=st.sets(st.integers(1, N - 1), max_size=12),
    keeps=st.lists(st.booleans(), min_size=13, max_size=13),
    block=st.sampled_from([1, 7, 4096]),
)
def test_any_division_into_shards_is_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: set[int], keeps: list[bool], block: int
) -> None:
    monkeypatch.setattr(merging, "_BLOCK", block)
    bounds = [0, *sorted(cuts), N]
    tasks = [
        ShardTask(CELL, start, stop, keeps_features=keep, fingerprint=f"{start}-{stop}")
        for start, stop, keep in zip(bounds, bounds[1:], keeps, strict=False)
    ]
    merged = merge_cell(stored(tmp_path, tasks, X), tasks)
    assert merged.table.ids == tuple(IDS)
    assert merged.table.groups == tuple(f"group-{i // 2}" for i in range(N))
    assert np.array_equal(merged.table.columns["x"], X[:, 0].astype(np.float64) / 3)
    assert np.array_equal(merged.keys[:, 0], np.arange(N))
    side = merged.sides["net"]
    assert _difference(side.moments.moments, Moments.of(X)) < 1e-12
    kept = [row for task in tasks if task.keeps_features for row in range(task.start, task.stop)]
    wanted = Samples.of(space_of_width(D), X[kept], [IDS[row] for row in kept])
    assert np.array_equal(side.kept.ids, wanted.ids)
    assert np.array_equal(side.kept.features, wanted.features)
    assert side.has_all == (len(kept) == N)
    assert np.array_equal(side.moments.ids, Samples.of(space_of_width(D), X, IDS).ids)


def test_the_same_shards_give_the_same_bits_in_whatever_order_they_were_finished(tmp_path: Path) -> None:
    tasks = tasks_of(CELL, 7, keep_features=20)
    one, other = ShardStore(tmp_path / "1", tmp_path), ShardStore(tmp_path / "2", tmp_path)
    for task, turned in zip(tasks, reversed(tasks), strict=True):
        one.write(task, made(task, X))
        other.write(turned, made(turned, X))
    first, second = (merge_cell(store, tasks).sides["net"] for store in (one, other))
    assert first.moments.moments.m2.tobytes() == second.moments.moments.m2.tobytes()
    assert first.moments.moments.mean.tobytes() == second.moments.moments.mean.tobytes()
    assert first.kept.features.tobytes() == second.kept.features.tobytes()


def test_features_past_the_bound_become_moments_only_where_these_are_smaller(tmp_path: Path) -> None:
    for shard_size, kind in ((D, CountedMoments), (D - 1, Samples)):
        tasks = tasks_of(CELL, shard_size, keep_features=2 * shard_size)
        store = stored(tmp_path / str(shard_size), tasks, X)
        kinds = []
        for task in tasks:
            result = store.read(task)
            assert result is not None
            kinds.append(type(result.statistics["net"]))
        assert kinds == [Samples, Samples] + [kind] * (len(tasks) - 2)
        side = merge_cell(store, tasks).sides["net"]
        # Features that are the smaller are not kept for that.
        assert len(side.kept.ids) == 2 * shard_size
        assert side.moments.moments.n == N


def _peak_bytes(store: ShardStore, tasks: list[ShardTask]) -> int:
    merge_cell(store, tasks[:1])
    tracemalloc.start()
    merge_cell(store, tasks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_merging_holds_a_block_and_not_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_BLOCK", 64)
    dim, peaks = 512, {}
    for n in (256, 2048):
        features = np.random.default_rng(2).normal(size=(n, dim)).astype(np.float32)
        tasks = tasks_of(replace(CELL, n=n), 32, keep_features=0)
        peaks[n] = _peak_bytes(stored(tmp_path / str(n), tasks, features), tasks)
    all_features = 2048 * dim * 4
    # Moments, and what it takes to merge them, are the same for any number of samples.
    assert peaks[2048] - peaks[256] < all_features / 8
    kept = tasks_of(replace(CELL, n=2048), 32, keep_features=2048)
    features = np.random.default_rng(2).normal(size=(2048, dim)).astype(np.float32)
    assert _peak_bytes(stored(tmp_path / "kept", kept, features), kept) - peaks[256] > all_features


def test_a_missing_or_damaged_shard_is_named_and_a_rerun_would_make_it(tmp_path: Path) -> None:
    tasks = tasks_of(CELL, 20)
    store = stored(tmp_path, tasks, X)
    path = store.folder / f"{tasks[1].id}.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="^shard 'cell-0000020' is missing or damaged; run the evaluation again"):
        merge_cell(store, tasks)
    assert [task.id for task in tasks if not store.has(task)] == [tasks[1].id]
    path.unlink()
    with pytest.raises(DataError, match="'cell-0000020' is missing"):
        merge_cell(store, tasks)


@pytest.mark.parametrize("is_same_picture", [True, False])
def test_an_id_of_two_samples_is_refused(tmp_path: Path, is_same_picture: bool) -> None:
    names, features = [*IDS[:-1], IDS[3]], X.copy()
    if is_same_picture:
        features[-1] = features[3]
    else:
        features[-1] = -features[3]
    tasks = tasks_of(CELL, 20)
    with pytest.raises(DataError, match="two (different )?samples; give every sample its own"):
        merge_cell(stored(tmp_path, tasks, features, names), tasks)


def test_shards_of_failed_samples_leave_gaps_and_nothing_else(tmp_path: Path) -> None:
    tasks = tasks_of(CELL, 20)
    store = stored(tmp_path, tasks, X)
    there = made(tasks[1], X)
    nothing = replace(
        there,
        table=replace(there.table, columns={}, failed=dict.fromkeys(there.table.ids, "torn")),
        statistics={},
        keys=np.zeros((0, 16), np.uint8),
    )
    store.write(tasks[1], nothing)
    merged = merge_cell(store, tasks)
    assert list(merged.table.failed) == IDS[20:40]
    assert np.isnan(merged.table.columns["x"][20:40]).all()
    assert not np.isnan(merged.table.columns["x"][[*range(20), *range(40, N)]]).any()
    rest = X[[*range(20), *range(40, N)]]
    assert _difference(merged.sides["net"].moments.moments, Moments.of(rest)) < 1e-12
    assert len(merged.keys) == 40


def _frozen(result: ShardResult) -> ShardResult:
    """As `ray.get` hands a shard over: no array may be written to."""
    arrays = [result.keys, *result.table.columns.values(), *result.embeddings.values()]
    for kept in result.statistics.values():
        arrays.append(kept.ids)
        arrays += [kept.moments.mean, kept.moments.m2] if isinstance(kept, CountedMoments) else [kept.features]
    for array in arrays:
        array.setflags(write=False)
    return result


class _FrozenStore(ShardStore):
    def read(self, task: ShardTask) -> ShardResult | None:
        result = super().read(task)
        return None if result is None else _frozen(result)


@pytest.mark.parametrize("keep_features", [0, 20, N])
def test_nothing_is_written_into_what_a_shard_carries(tmp_path: Path, keep_features: int) -> None:
    tasks = tasks_of(CELL, 10, keep_features)
    plain, frozen = ShardStore(tmp_path / "1", tmp_path), _FrozenStore(tmp_path / "2", tmp_path)
    for task in tasks:
        plain.write(task, made(task, X))
        frozen.write(task, _frozen(made(task, X)))
    one, other = (merge_cell(store, tasks) for store in (plain, frozen))
    assert one.sides["net"].moments.moments.m2.tobytes() == other.sides["net"].moments.moments.m2.tobytes()
    assert one.table.columns["x"].tobytes() == other.table.columns["x"].tobytes()
