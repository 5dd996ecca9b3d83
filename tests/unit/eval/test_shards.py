"""A finished shard comes back bit for bit or not at all, and its name says of what it is."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from made_shards import made, space_of_width
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.protocols.protocol import CellPlan
from nigaoe.eval.running.plan import Plan, make_plan
from nigaoe.eval.running.shards import ShardResult, ShardStore, ShardTask, Statistics, fingerprint_of, smaller
from nigaoe.eval.running.tables import SampleTable

CELL = CellPlan("photo-none", "Photo base", "generation", 4, base="toy/photo")
TASK = ShardTask(CELL, 0, 4, fingerprint="0123abcd")
X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)


def _full() -> ShardResult:
    """Everything that a shard may hold, with names that have dots and more than ASCII."""
    samples = Samples.of(space_of_width(5), X[:4], ["a.b", "c", "d", "e\u00e9"])
    table = SampleTable(
        ("a.b", "c", "d", "e\u00e9"),
        ("g", "g", "h", "h"),
        {"clip_i": np.array([0.1, np.nan, -0.0, 1e-300])},
        {"c": "no"},
    )
    return ShardResult(
        id=TASK.id,
        fingerprint=TASK.fingerprint,
        table=table,
        statistics={"net": samples, "vit.b": CountedMoments.of(Samples.of(space_of_width(5), X, range(40)))},
        embeddings={"clip": X[:4], "face.dlib": np.full((4, 2), np.nan, np.float32)},
        keys=np.arange(64, dtype=np.uint8).reshape(4, 16),
        thumbnails={"a.b": b"webp\0\0", "e\u00e9": b""},
    )


def _bits(result: ShardResult) -> dict[str, Any]:
    """All of a shard, in values that compare by every bit."""
    return {
        "id": result.id,
        "fingerprint": result.fingerprint,
        "table": (result.table.ids, result.table.groups, result.table.failed),
        "columns": {name: values.tobytes() for name, values in result.table.columns.items()},
        "statistics": {name: _statistics_bits(kept) for name, kept in result.statistics.items()},
        "embeddings": {name: (rows.dtype, rows.shape, rows.tobytes()) for name, rows in result.embeddings.items()},
        "keys": (result.keys.dtype, result.keys.shape, result.keys.tobytes()),
        "thumbnails": result.thumbnails,
    }


def _statistics_bits(kept: Statistics) -> tuple[Any, ...]:
    if isinstance(kept, Samples):
        return asdict(kept.space), kept.ids.tobytes(), kept.features.dtype, kept.features.tobytes()
    moments = kept.moments
    return asdict(kept.space), kept.ids.tobytes(), moments.n, moments.mean.tobytes(), moments.m2.tobytes()


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(tmp_path / "shards", tmp_path / "cache")


def _file(store: ShardStore, task: ShardTask = TASK) -> Path:
    return store.folder / f"{task.id}.npz"


def test_a_shard_comes_back_bit_for_bit(store: ShardStore) -> None:
    assert not store.has(TASK)
    assert store.read(TASK) is None
    store.write(TASK, _full())
    assert store.has(TASK)
    found = store.read(TASK)
    assert found is not None
    assert _bits(found) == _bits(_full())
    assert [path.name for path in store.folder.iterdir()] == [f"{TASK.id}.npz"]


def test_a_shard_of_failed_samples_alone_comes_back(store: ShardStore) -> None:
    ids = ("a", "b", "c", "d")
    nothing = replace(
        _full(),
        table=SampleTable(ids, ids, {}, dict.fromkeys(ids, "no picture")),
        statistics={},
        embeddings={},
        keys=np.zeros((0, 16), np.uint8),
        thumbnails={},
    )
    store.write(TASK, nothing)
    found = store.read(TASK)
    assert found is not None
    assert _bits(found) == _bits(nothing)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_makes_it_anew(store: ShardStore, place: float, bit: int) -> None:
    store.write(TASK, _full())
    content = bytearray(_file(store).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    _file(store).write_bytes(content)
    # Whoever asks only whether it is there must hear the same, or a rerun would not mend it.
    assert not store.has(TASK)
    assert store.read(TASK) is None


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_makes_it_anew(store: ShardStore, share: float) -> None:
    store.write(TASK, _full())
    content = _file(store).read_bytes()
    _file(store).write_bytes(content[: int(share * len(content))])
    assert not store.has(TASK)
    assert store.read(TASK) is None
    store.write(TASK, _full())
    assert store.has(TASK)


def test_a_stale_shard_is_none(store: ShardStore) -> None:
    store.write(TASK, _full())
    for stale in (replace(TASK, fingerprint="other"), replace(TASK, fingerprint="")):
        assert not store.has(stale)
        assert store.read(stale) is None
    assert store.has(TASK)


def test_moments_take_the_place_of_features_only_where_they_are_smaller() -> None:
    few, many = Samples.of(space_of_width(5), X[:4], range(4)), Samples.of(space_of_width(5), X, range(40))
    assert smaller(many, keeps_features=True) is many
    assert smaller(few, keeps_features=False) is few
    assert isinstance(smaller(many, keeps_features=False), CountedMoments)


def test_real_pictures_lie_in_the_cache_by_fingerprint_whatever_the_run_is_called(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one, other = (ShardStore(tmp_path / run / "shards", cache) for run in ("one", "other"))
    for source in ("references", "yardstick"):
        real = ShardTask(CellPlan("here", "", source, 4), 0, 4, fingerprint=f"{source}-f00d")
        one.write(real, made(real, X))
        elsewhere = replace(real, cell=replace(real.cell, name="there", title="Another"))
        assert other.has(elsewhere)
        found = other.read(elsewhere)
        assert found is not None
        # Its content is the cache's, its name the asker's.
        assert found.id == elsewhere.id
        assert not other.has(replace(elsewhere, fingerprint=f"{source}-beef"))
    assert not one.folder.exists()
    drawn = replace(TASK, fingerprint="references-f00d")
    assert not other.has(drawn)


SAMPLES = ["s0 g0 r0", "s1 g1 r1", "s2 g2 r2", "s3 g3 r3"]
SETTING = {"networks": {"clip": "1"}, "code": "2", "base": "3"}


@pytest.mark.parametrize(
    "changed",
    [
        {"base": "toy/anime"},
        {"adapter": "demo"},
        {"scale": 0.5},
        {"prompt": "a person"},
        {"yardstick": "train"},
        {"references": "references"},
        {"variant": "anime"},
        {"target": "theirs"},
        {"source": "server"},
        {"name": "photo-adapter"},
    ],
)
def test_a_fingerprint_hangs_on_every_word_of_a_cell(changed: dict[str, Any]) -> None:
    other = replace(TASK, cell=replace(CELL, **changed))
    assert fingerprint_of(other, SAMPLES, SETTING) != fingerprint_of(TASK, SAMPLES, SETTING)


def test_a_fingerprint_hangs_on_rows_samples_and_settings_and_on_nothing_else() -> None:
    plain = fingerprint_of(TASK, SAMPLES, SETTING)
    others = [
        fingerprint_of(replace(TASK, start=1), SAMPLES, SETTING),
        fingerprint_of(replace(TASK, stop=3), SAMPLES, SETTING),
        fingerprint_of(replace(TASK, keeps_features=False), SAMPLES, SETTING),
        fingerprint_of(replace(TASK, thumbnails=1), SAMPLES, SETTING),
        fingerprint_of(TASK, [*SAMPLES[:3], "s3 g3 another"], SETTING),
        fingerprint_of(TASK, SAMPLES[::-1], SETTING),
        fingerprint_of(TASK, SAMPLES, {**SETTING, "code": "3"}),
        fingerprint_of(TASK, SAMPLES, {**SETTING, "networks": {"clip": "2"}}),
    ]
    assert len({plain, *others}) == 1 + len(others)
    beside = replace(TASK, cell=replace(CELL, title="Another", n=4000), fingerprint="before")
    assert fingerprint_of(beside, SAMPLES, SETTING) == plain
    real = replace(TASK, cell=replace(CELL, source="yardstick"))
    renamed = replace(real, cell=replace(real.cell, name="another", title="Another"))
    assert fingerprint_of(real, SAMPLES, SETTING) == fingerprint_of(renamed, SAMPLES, SETTING)


def _plan(tmp_path: Path, **values: Any) -> Plan:
    config = {
        "out": str(tmp_path),
        "protocol": {"kind": "toy", "n": 4, "yardstick_n": 4},
        "adapters": {"demo": "toy/adapter"},
        "shard_size": 2,
        **values,
    }
    return make_plan(EvalConfig.model_validate(config))


def _changed(one: Plan, other: Plan) -> set[str]:
    """Cells of the first plan whose shards the second makes anew."""
    there = {task.id: task.fingerprint for task in other.tasks}
    return {task.cell.name for task in one.tasks if there.get(task.id) != task.fingerprint}


def test_what_a_run_makes_anew_is_what_changed(tmp_path: Path) -> None:
    plain = _plan(tmp_path)
    cells = {task.cell.name for task in plain.tasks}
    drawn = {name for name in cells if name.endswith(("-none", "-adapter", "-red"))}
    adapted = {name for name in drawn if not name.endswith("-none")}
    through_a_base = drawn | {"vae-photo", "vae-anime"}
    assert _changed(plain, _plan(tmp_path, title="Another", workers=5, notes=["x"], out=str(tmp_path / "b"))) == set()
    assert _changed(plain, _plan(tmp_path, pictures=1, wandb_project="x", gpus_per_worker=1)) == set()
    assert _changed(plain, _plan(tmp_path, adapters={})) == adapted
    assert _changed(plain, _plan(tmp_path, sampling={"adapter_scale": 0.5})) == adapted
    assert _changed(plain, _plan(tmp_path, sampling={"scales": [0.5]})) == set()
    assert _changed(plain, _plan(tmp_path, sampling={"steps": 7})) == drawn
    assert _changed(plain, _plan(tmp_path, sampling={"precision": "float32"})) == through_a_base
    assert _changed(plain, _plan(tmp_path, metrics={"dino": None, "features": ["toy/clip"]})) == cells
    assert _changed(plain, _plan(tmp_path, seed=1)) == cells
    # Real pictures are what they were, but for which of them a picture is kept of.
    assert _changed(plain, _plan(tmp_path, keep_images=True)) == cells - {"references", "train-photo", "train-anime"}
    assert _changed(plain, _plan(tmp_path, thumbnails=0)) == cells - {"train-photo", "train-anime"}


def test_more_samples_leave_whole_shards_as_they_are(tmp_path: Path) -> None:
    few, many = (_plan(tmp_path, protocol={"kind": "toy", "n": n, "yardstick_n": 2}) for n in (12, 20))
    same = {task.id for task in few.tasks} & {task.id for task in many.tasks if task.fingerprint}
    there = {task.id: task.fingerprint for task in many.tasks}
    kept = {task.id for task in few.tasks if there[task.id] == task.fingerprint}
    # The last samples' strangers come from beyond the end, or once around.
    assert {f"references-{start:07d}" for start in range(0, 12, 2)} <= kept <= same
    assert {"photo-none-0000000", "photo-none-0000002"} <= kept
    assert "photo-none-0000010" not in kept


def _reference_plan(tmp_path: Path) -> Plan:
    protocol = {
        "kind": "folder",
        "references": str(tmp_path / "references"),
        "prompts": ["a person"],
        "bases": {"photo": "toy/photo"},
        "image_encoder": "toy/image_encoder",
        "clip": "toy/clip",
    }
    return make_plan(EvalConfig.model_validate({"out": str(tmp_path), "protocol": protocol, "shard_size": 1}))


def test_a_reference_that_was_renamed_or_changed_is_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    for i, name in enumerate(("a", "b", "c")):
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(folder / f"{name}.png")
    plain = _reference_plan(tmp_path)
    assert _changed(plain, _reference_plan(tmp_path)) == set()
    (folder / "a.png").rename(folder / "aa.png")
    renamed = _reference_plan(tmp_path)
    # A shard has the names of its samples in it: under the old one nothing would find its references.
    assert plain.tasks[0].fingerprint != renamed.tasks[0].fingerprint
    assert [task.fingerprint for task in plain.tasks[1:3]] == [task.fingerprint for task in renamed.tasks[1:3]]
    Image.new("RGB", (8, 8), (1, 0, 0)).save(folder / "aa.png")
    changed = _reference_plan(tmp_path)
    assert changed.tasks[0].fingerprint != renamed.tasks[0].fingerprint
    cell = changed.cell("references")
    seen = [plan.protocol.sample(cell, 0).reference.getpixel((0, 0)) for plan in (changed, _reference_plan(tmp_path))]
    assert seen == [(1, 0, 0), (1, 0, 0)]
