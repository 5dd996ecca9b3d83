"""A run's record of pictures has its own and those of the adapter that it began with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.errors import DataError
from nigaoe.core.images import read_image
from nigaoe.core.manifests import read_prepared, write_json
from nigaoe.core.training_pictures import TRAINED_ON, Recorded, recorded_for
from nigaoe.train.config import TrainConfig
from nigaoe.train.shipping.publish import describe_adapter
from nigaoe.train.shipping.trained_on import leave_record, pictures_of_run
from preparing_here import prepared_here


def _make_source(folder: Path, seeds: range) -> None:
    folder.mkdir()
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    rows = "".join(f"{seed}.png,photo {seed}\n" for seed in seeds)
    (folder / "captions.csv").write_text(f"ID,caption_0\n{rows}")


def _config(folder: Path, base: Path, **changes: object) -> TrainConfig:
    data = {"source": str(folder / "captions.csv"), "prepared": folder / "prepared", "shard_rows": 2}
    values = {"name": "a", "out": folder / "run", "base": str(base), "image_encoder": "toy/image_encoder"}
    return TrainConfig.model_validate({**values, "data": data, "steps": 1, **changes})


def _finish(config: TrainConfig, adapter: IPAdapter) -> Path:
    """What the end of a run does, after training."""
    manifest = read_prepared(config.data.prepared)
    recorded, weights = pictures_of_run(config, manifest), config.out / "adapter.safetensors"
    save_adapter(adapter, weights)
    leave_record(recorded, config.out)
    write_json(describe_adapter(config, weights, "rows", manifest, recorded), config.out / "adapter.json")
    return weights


def _held(recorded: Recorded, folder: Path) -> int:
    assert recorded.pictures is not None
    return sum(recorded.pictures.holds(read_image(path)) for path in folder.glob("*.png"))


def test_a_run_records_its_pictures_and_those_that_it_began_with(
    tmp_path: Path, tiny_base: Callable[[str], Path], adapter: IPAdapter
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _make_source(first, range(3))
    _make_source(second, range(3, 8))
    for folder in (first, second):
        prepared_here(_config(folder, tiny_base("sd")))
    weights = _finish(_config(first, tiny_base("sd")), adapter)
    recorded = recorded_for(weights)
    assert recorded.gap is None
    assert (_held(recorded, first), _held(recorded, second)) == (3, 0)

    forked = recorded_for(_finish(_config(second, tiny_base("sd"), init_from=weights), adapter))
    assert forked.gap is None
    assert (_held(forked, first), _held(forked, second)) == (3, 5)

    (first / "run" / TRAINED_ON).unlink()
    forked = recorded_for(_finish(_config(second, tiny_base("sd"), init_from=weights), adapter))
    assert "began with another adapter" in (forked.gap or "")
    assert (_held(forked, first), _held(forked, second)) == (0, 5)


def test_a_run_without_cache_records_nothing_and_keeps_no_stale_record(
    tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    _make_source(tmp_path / "source", range(3))
    config = _config(tmp_path / "source", tiny_base("sd"))
    manifest, _ = prepared_here(config)
    leave_record(pictures_of_run(config, manifest), config.out)
    assert (config.out / TRAINED_ON).is_file()
    leave_record(pictures_of_run(config, None), config.out)
    assert not (config.out / TRAINED_ON).exists()


def test_a_shard_that_is_damaged_is_named_before_training(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    _make_source(tmp_path / "source", range(3))
    config = _config(tmp_path / "source", tiny_base("sd"))
    manifest, _ = prepared_here(config)
    path = config.data.prepared / manifest.shards[0].file
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=f"prepared file '{path}' is gone or damaged"):
        pictures_of_run(config, manifest)
