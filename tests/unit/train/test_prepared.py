"""Prepared data are what was encoded, whichever way they are read; what is damaged or stale is named."""

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from nigaoe.core.bases import load_base
from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.images import read_image
from nigaoe.core.manifests import read_prepared, write_json
from nigaoe.core.training_pictures import digest_of
from nigaoe.train.config import TrainConfig
from nigaoe.train.preparing.attempts import attempt, forget_attempts
from nigaoe.train.preparing.plan import plan_shards
from nigaoe.train.preparing.processes import EncodingProcess, Told
from nigaoe.train.preparing.recipe import recipe_of
from nigaoe.train.preparing.requirements import require_prepared_for
from nigaoe.train.records.record import Picture, Record
from nigaoe.train.samples.batches import Batch, TrainingData
from nigaoe.train.samples.buckets import Shape
from nigaoe.train.samples.choices import People, choose, people_columns
from nigaoe.train.samples.online import OnlineDataset
from nigaoe.train.samples.prepared import PreparedDataset
from nigaoe.train.samples.row_files import RowFile, is_whole, write_row_file
from nigaoe.train.shipping.trained_on import pictures_of_run
from preparing_here import prepared_here

SIZES = [(40, 40), (64, 40), (40, 64), (48, 44), (90, 50), (36, 60), (50, 50), (100, 61), (33, 33)]


def _make_pictures(folder: Path) -> None:
    folder.mkdir()
    for i, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    _write_rows(folder, [(f"{i}.png", f"photo {i}", f"picture {i}" if i % 2 else "", i % 4) for i in range(len(SIZES))])


def _write_rows(folder: Path, rows: list[tuple[Any, ...]], *more: str) -> None:
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("ID", "caption_0", "caption_1", "identity", *more), *rows])


def _config(folder: Path, base: Path | str, **changes: Any) -> TrainConfig:
    data = {"source": str(folder / "pictures" / "captions.csv"), "prepared": folder / "prepared", "shard_rows": 2}
    values = {"name": "test", "out": folder / "out", "base": str(base), "image_encoder": "toy/image_encoder"}
    return TrainConfig.model_validate({**values, "steps": 1, **changes, "data": {**data, **changes.get("data", {})}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _make_pictures(tmp_path / "pictures")
    return tmp_path


def _all(data: TrainingData, seed: int = 0) -> tuple[list[str], list[Batch]]:
    keys, batches = [], []
    for bucket, rows in enumerate(data.bucket_rows):
        every = torch.arange(rows)
        keys += data.keys(bucket, every)
        batches.append(data.batch(bucket, every, [torch.Generator().manual_seed(seed + i) for i in range(rows)]))
    return keys, batches


def _require_same(first: TrainingData, second: TrainingData, seed: int = 0) -> None:
    (keys, ours), (their_keys, theirs) = _all(first, seed), _all(second, seed)
    assert keys == their_keys
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("reference", ["same", "other"])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_cache_changes_nothing(folder: Path, tiny_base: Callable[[str], Path], kind: str, reference: str) -> None:
    changes = {"aspect_ratios": 3, "views": 3, "reference": reference}
    config = _config(folder, tiny_base(kind), data=changes, adapter={"variant": "plus"})
    manifest, _ = prepared_here(config)
    prepared = PreparedDataset.open(config.data.prepared, config.data.reference)
    online = OnlineDataset.open(config, load_base(config.base))
    assert len(manifest.buckets) == 3
    assert sum(prepared.bucket_rows) == len(SIZES)
    _require_same(prepared, online)
    for name, value in prepared.features.unconditional.items():
        torch.testing.assert_close(value, online.features.unconditional[name])


def test_a_batch_is_what_was_encoded(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    config = _config(folder, tiny_base("sdxl"), data={"aspect_ratios": 3})
    prepared_here(config)
    base, data = load_base(config.base), PreparedDataset.open(config.data.prepared)
    keys, batches = _all(data)
    shapes = [(bucket.height, bucket.width) for bucket in data.manifest.buckets]
    assert [tuple(4 * side for side in batch.latents.shape[2:]) for batch in batches] == shapes
    assert sorted(keys) == [f"{i}.png" for i in range(len(SIZES))]
    for batch, (height, width) in zip(batches, shapes, strict=True):
        assert batch.latents.dtype == batch.time_ids.dtype == torch.float32
        sizes = [tuple(row) for row in batch.time_ids[:, :2].int().tolist()]
        assert set(sizes) <= set(SIZES)
        assert batch.time_ids[:, 4:].tolist() == [[height, width]] * len(sizes)
    said = {
        tuple(row)
        for i in range(len(SIZES))
        for row in base.text_encoder.tokenize([f"photo {i}", f"picture {i}"]).tolist()
    }
    assert {tuple(row) for batch in batches for row in batch.token_ids.tolist()} <= said


def test_a_sample_depends_on_its_generator_alone(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    config = _config(folder, tiny_base("sd"), data={"views": 2})
    prepared_here(config)
    data = PreparedDataset.open(config.data.prepared, "other")

    def batch(*rows: int) -> Batch:
        return data.batch(0, torch.tensor(rows), [torch.Generator().manual_seed(row) for row in rows])

    together, alone = batch(5, 0, 3), batch(3)
    torch.testing.assert_close(together.latents[2:], alone.latents, rtol=0, atol=0)
    assert torch.equal(together.token_ids[2:], alone.token_ids)
    assert torch.equal(together.features["image_embeds"][2:], alone.features["image_embeds"])
    seen = {
        tuple(batch_.token_ids[0].tolist())
        for batch_ in (data.batch(0, torch.tensor([1]), [torch.Generator().manual_seed(i)]) for i in range(20))
    }
    assert len(seen) == 2
    generator = torch.Generator().manual_seed(7)
    first = choose(generator, 2, 3, (4, 2, 2))
    assert not torch.equal(first.noise, choose(generator, 2, 3, (4, 2, 2)).noise)


def test_a_picture_that_prompts_may_be_another_file(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    rows = [("0.png", "a", "", "x", "7.png"), ("3.png", "b", "", "x", "")]
    _write_rows(folder / "pictures", rows, "photo")
    config = _config(folder, tiny_base("sd"), data={"condition_column": "photo", "reference": "other"})
    manifest, _ = prepared_here(config)
    assert manifest.conditioned_rows == 1
    digests = {i: np.frombuffer(digest_of(read_image(folder / "pictures" / f"{i}.png")), np.uint8) for i in (0, 3, 7)}
    (shard,) = manifest.shards
    contents = RowFile(config.data.prepared / shard.file).read("contents")
    zeros = np.zeros(16, np.uint8)
    assert np.array_equal(contents, np.stack([[digests[0], digests[7]], [digests[3], zeros]]))
    data = PreparedDataset.open(config.data.prepared, "other")
    online = OnlineDataset.open(config, load_base(config.base))
    _require_same(data, online)
    plain = _config(folder, tiny_base("sd"), data={"prepared": folder / "plain", "source": str(folder / "seven.csv")})
    (folder / "seven.csv").write_text("ID,caption_0\npictures/7.png,c\n")
    prepared_here(plain)
    seven = _all(PreparedDataset.open(plain.data.prepared))[1][0].features["image_embeds"][0]
    keys, (batch,) = _all(data)
    # The row that names its photo keeps it; the other one takes what the first one shows.
    torch.testing.assert_close(batch.features["image_embeds"], seven.expand(2, -1))


def test_what_is_there_is_not_made_again(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    config = _config(folder, tiny_base("sd"))
    first, _ = prepared_here(config)
    shards = {shard.file: (config.data.prepared / shard.file).stat().st_mtime_ns for shard in first.shards}
    again, seconds = prepared_here(config)
    assert (again, seconds) == (first, 0.0)
    os.utime(folder / "pictures" / "4.png", ns=(1, 1))
    second, _ = prepared_here(config)
    kept = shards.keys() & {shard.file for shard in second.shards}
    assert len(kept) == len(shards) - 1
    assert all((config.data.prepared / name).stat().st_mtime_ns == shards[name] for name in kept)
    (config.data.prepared / first.shards[0].file).write_bytes(b"torn")
    prepared_here(_config(folder, tiny_base("sd")))
    assert is_whole(config.data.prepared / second.shards[0].file)


def test_bad_rows_are_listed_and_quarantine_changes_their_shards_alone(
    folder: Path, tiny_base: Callable[[str], Path]
) -> None:
    (folder / "pictures" / "4.png").write_bytes(b"x")
    config = _config(folder, tiny_base("sd"), data={"aspect_ratios": 3})
    with pytest.raises(
        DataError, match=r"4.png' is not a picture; .*; 1 of 9 rows cannot be used.* data.quarantine"
    ) as e:
        prepared_here(config)
    assert "\n" not in str(e.value)
    assert (folder / "prepared" / "bad_files.txt").read_text().startswith("4.png: ")
    kept = set((folder / "prepared").glob("shard-*"))
    assert not (folder / "prepared" / "manifest.json").exists()
    _write_rows(
        folder / "pictures",
        [(f"{i}.png", f"photo {i}", f"picture {i}" if i % 2 else "", i % 4) for i in range(9) if i != 4],
    )
    manifest, seconds = prepared_here(config)
    assert (manifest.rows, seconds) == (8, 0.0)
    assert {folder / "prepared" / shard.file for shard in manifest.shards} == kept
    assert not (folder / "prepared" / "bad_files.txt").exists()


def test_without_a_cache_bad_rows_are_named_when_they_are_met(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    (folder / "pictures" / "4.png").write_bytes((folder / "pictures" / "4.png").read_bytes()[:300])
    (folder / "pictures" / "5.png").write_bytes(b"x")
    config, base = _config(folder, tiny_base("sd")), load_base(str(tiny_base("sd")))
    data = OnlineDataset.open(config, base)
    generators = [torch.Generator().manual_seed(0)]
    data.batch(0, torch.tensor([3]), generators)
    with pytest.raises(DataError, match=r"row '4.png' cannot be trained on: .*4.png' is damaged.*data.quarantine$"):
        data.batch(0, torch.tensor([4]), generators)
    with pytest.raises(DataError, match=r"row '5.png' cannot be trained on: .*5.png' is not a picture"):
        OnlineDataset.open(_config(folder, tiny_base("sd"), data={"aspect_ratios": 3}), base)


@pytest.mark.parametrize("harm", ["gone", "half", "cut", "header"])
def test_a_damaged_shard_is_named(folder: Path, tiny_base: Callable[[str], Path], harm: str) -> None:
    config = _config(folder, tiny_base("sd"), data={"shard_rows": 100})
    manifest, _ = prepared_here(config)
    data = PreparedDataset.open(config.data.prepared)
    path = config.data.prepared / manifest.shards[0].file
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "header":
        path.write_bytes(b"\xff" * 100)
    elif harm == "cut":
        # While it is open.
        _all(data)
        os.truncate(path, len(content) // 4)
    else:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DataError, match=f"prepared file '{path}' is gone or damaged .*; run `nigaoe prepare` again"
    ) as e:
        _all(data)
    assert "\n" not in str(e.value)


def test_an_older_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{\n  "version": 1,\n  "source": "x"\n}\n')
    with pytest.raises(DataError, match="was written by an older nigaoe; run `nigaoe prepare` with this config again"):
        read_prepared(tmp_path)


def test_a_folder_without_digests_still_serves(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    config = _config(folder, tiny_base("sd"))
    manifest, _ = prepared_here(config)
    _, (before,) = _all(PreparedDataset.open(config.data.prepared))
    assert len(pictures_of_run(config, manifest).pictures or ()) == len(SIZES)
    for shard in manifest.shards:
        path = config.data.prepared / shard.file
        columns = load_file(path)
        del columns["contents"]
        save_file(columns, path)
    write_json(manifest.model_copy(update={"version": 2}), config.data.prepared / "manifest.json")
    older = require_prepared_for(config)
    _, (after,) = _all(PreparedDataset.open(config.data.prepared))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert pictures_of_run(config, older).pictures is None


def test_a_config_that_would_have_made_other_data_is_refused_by_name(
    folder: Path, tiny_base: Callable[[str], Path]
) -> None:
    config = _config(folder, tiny_base("sd"))
    prepared_here(config)
    require_prepared_for(config)
    (folder / "split.json").write_text("{}")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"base": str(tiny_base("sd2"))}, "base '.*sd', the config says '.*sd2'"),
        ({"data": {"resolution_px": 64}}, "resolution_px 32, the config says 64"),
        ({"data": {"aspect_ratios": 3}}, "aspect_ratios 1, the config says 3"),
        ({"data": {"views": 2}}, "views 1, the config says 2"),
        ({"data": {"caption_columns": ["caption_1"]}}, r"caption_columns None, the config says \['caption_1'\]"),
        ({"data": {"split": folder / "split.json"}}, "split None, the config says '44136fa355b3'"),
        ({"adapter": {"variant": "plus"}}, "holds 'image_embeds', adapter.variant 'plus' reads 'hidden_states'"),
    ]
    for changes, word in wrong:
        with pytest.raises(ConfigError, match=f"{word}; run `nigaoe prepare`"):
            require_prepared_for(_config(folder, changes.pop("base", tiny_base("sd")), **changes))
    source = folder / "pictures" / "captions.csv"
    source.write_text(source.read_text() + "1.png,again,,7\n")
    with pytest.raises(ConfigError, match="made with the content of source"):
        require_prepared_for(config)
    # Prepared data are enough to train on.
    source.unlink()
    require_prepared_for(config)


def test_a_base_that_was_replaced_is_refused(folder: Path, tiny_base: Callable[[str], Path]) -> None:
    own = folder / "base"
    os.symlink(tiny_base("sd"), own)
    config = _config(folder, own)
    prepared_here(config)
    manifest = read_prepared(config.data.prepared)
    stale = manifest.model_copy(update={"vae_hash": "0123"})
    (config.data.prepared / "manifest.json").write_text(stale.model_dump_json())
    with pytest.raises(ConfigError, match="made with the autoencoder of the base '0123', the config says"):
        require_prepared_for(config)


def _records(keys: list[str]) -> list[Record]:
    return [Record(key, Picture(key), ("a",), key) for key in keys]


def _plan(keys: list[str]) -> dict[str, list[str]]:
    shards = plan_shards(_records(keys), keys, [0] * len(keys), [Shape(8, 8)], {}, shard_rows=20, views=1)
    return {shard.file: [keys[row] for row in shard.rows] for shard in shards}


@given(st.integers(1, 400), st.integers(0, 10_000))
def test_a_row_that_goes_changes_few_shards(count: int, seed: int) -> None:
    keys = [f"{seed}-{i}" for i in range(count)]
    whole = _plan(keys)
    assert sum(whole.values(), []) == keys
    assert all(0 < len(rows) <= 20 for rows in whole.values())
    gone = keys[count // 3]
    less = _plan([key for key in keys if key != gone])
    assert sum(less.values(), []) == [key for key in keys if key != gone]
    # Where the shards end by their keys again, they are the same again.
    assert len(whole.keys() - less.keys()) <= 12


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(0, 2**31))
def test_references_are_other_pictures_of_the_same_person(who: list[str], seed: int) -> None:
    conditions = [Picture("c") if i % 5 == 4 else None for i in range(len(who))]
    rows = [Record(str(i), Picture(str(i)), ("a",), name, conditions[i]) for i, name in enumerate(who)]
    columns = people_columns(rows)
    people = People(*(columns[name].__getitem__ for name in People._fields))
    every = np.arange(len(who))
    seen: dict[int, set[int]] = {i: set() for i in every.tolist()}
    for drawn in np.random.default_rng(seed).random((300, 1)):
        for i, other in enumerate(people.others(every, np.repeat(drawn, len(who))).tolist()):
            seen[i].add(other)
    for i, others in seen.items():
        same = {j for j, name in enumerate(who) if name == who[i]} - {i}
        assert others <= (same or {i}) if conditions[i] is None else others == {i}
        assert len(others) > 1 or len(same) < 2 or conditions[i] is not None


def test_rows_of_a_file_are_read_one_by_one(tmp_path: Path) -> None:
    columns: dict[str, np.ndarray] = {
        "halves": np.arange(24, dtype=np.float16).reshape(4, 2, 3),
        "numbers": np.arange(4, dtype=np.int64),
        "nothing": np.zeros((0, 3), np.float32),
    }
    write_row_file(columns, tmp_path / "x.safetensors")
    file = RowFile(tmp_path / "x.safetensors")
    assert np.array_equal(file.read("halves", 3, 1), [21, 22, 23])
    assert np.array_equal(file.read("halves", 2), columns["halves"][2])
    assert np.array_equal(file.read_many("numbers", np.array([3, 0, 3])), [3, 0, 3])
    with pytest.raises(DataError, match=r"column 'halves' has rows of float16 \[3\]"):
        file.read("halves", 0, 0, out=np.empty(2, np.float16))
    for name, index, word in [("halves", (4,), "has no row"), ("thirds", (0,), "it has no column 'thirds'")]:
        with pytest.raises(DataError, match=word):
            file.read(name, *index)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(DataError, match=r"cannot be written \(No such file or directory\)"):
        write_row_file(columns, tmp_path / "missing" / "x.safetensors")


def test_a_shard_over_which_processes_die_is_given_up(tmp_path: Path) -> None:
    for _ in range(4):
        forget_attempts(tmp_path)
        with attempt(tmp_path, "shard", 1):
            pass
    # A process that is killed never leaves.
    killed = [attempt(tmp_path, "shard", 1) for _ in range(2)]
    for one in killed:
        one.__enter__()
    with (
        pytest.raises(DataError, match="2 processes died one after the other over 'shard'"),
        attempt(tmp_path, "shard", 1),
    ):
        pass
    with attempt(tmp_path, "shard", -1), attempt(tmp_path, "other", 1):
        pass


def _tell(process: EncodingProcess, told: Told) -> Told:
    said = process({"told": [told.model_dump_json()], "content": [b"no arrays"]})
    return Told.model_validate_json(said["told"][0])


def test_a_process_says_what_stops_it_and_never_raises(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    recipe = recipe_of(_config(tmp_path, tiny_base("sd")))
    told = Told(file="shard.safetensors", rows=2)
    lost = EncodingProcess(replace(recipe, image_encoder=str(tiny_base("sd"))), tmp_path, 3)
    assert (_tell(lost, told).failure or "").startswith(f"image encoder '{tiny_base('sd')}' cannot be loaded")
    process = EncodingProcess(recipe, tmp_path, 3)
    assert (_tell(process, told).failure or "").startswith("SafetensorError: ")
    assert _tell(process, told.model_copy(update={"bad": ["a.png: black"]})).failure is None
    nowhere = EncodingProcess(recipe, tmp_path / "missing", 3)
    assert "cannot be written to (No such file or directory)" in (_tell(nowhere, told).failure or "")
