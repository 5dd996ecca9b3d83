"""Publishing: what a manifest says of a run, and that servers read what a run publishes."""

import json
from pathlib import Path

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.manifests import read_adapter_manifest, write_json
from nigaoe.core.training_pictures import Recorded
from nigaoe.train.config import TrainConfig
from nigaoe.train.shipping.publish import base_hash, describe_adapter, publish_run
from nigaoe.train.watching.history import ValidationResult, write_validation
from object_store import object_store


@pytest.fixture
def finished(tmp_path: Path, adapter: IPAdapter) -> Path:
    """The folder of a run that trained 20 steps and validated twice."""
    out = tmp_path / "run"
    out.mkdir()
    config = TrainConfig.model_validate(
        {
            "name": "likeness",
            "out": out,
            "base": "toy/photo",
            "image_encoder": "toy/image_encoder",
            "data": {"source": "captions.csv", "prepared": "prepared"},
            "steps": 20,
            "batch_size": 4,
        }
    )
    lines = [{"step": 10, "loss": 0.5, "images_per_s": 9.0}, {"step": 20, "loss": 0.25, "images_per_s": 10.0}]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, loss in ((10, 0.3), (20, 0.4)):
        write_validation(out, ValidationResult(step=step, metrics={"validation_loss": loss, "clip_i": 0.8}))
    save_adapter(adapter, out / "adapter.safetensors")
    described = describe_adapter(config, out / "adapter.safetensors", "rows-of-today", None, Recorded(None, "a test"))
    write_json(described, out / "adapter.json")
    return out


def test_a_manifest_says_what_the_adapter_came_from(finished: Path, adapter: IPAdapter) -> None:
    manifest = read_adapter_manifest(finished / "adapter.json")
    assert (manifest.variant, manifest.training and manifest.training.dataset) == ("base", "rows-of-today")
    assert manifest.parameters == sum(x.numel() for x in adapter.parameters())
    training = manifest.training
    assert training is not None
    assert training.samples_seen == 80
    assert training.metrics["training"] == {"step": 20, "loss": 0.25, "images_per_s": 10.0}
    assert training.metrics["last"]["validation_loss"] == 0.4
    assert training.metrics["best"] == {"step": 10, "validation_loss": 0.3, "clip_i": 0.8}
    assert manifest.outline == adapter.outline
    assert training.base_hash == base_hash("toy/photo")
    assert base_hash("toy/anime") != base_hash("toy/photo")
    assert training.code_version.startswith("0.1.0")
    assert TrainConfig.model_validate(training.recipe).steps == 20
    assert (training.trained_on_sha256, training.trained_on_is_all) == (None, False)


def test_what_was_published_is_read(finished: Path, adapter: IPAdapter, tmp_path: Path) -> None:
    place = Path(publish_run(finished, str(tmp_path / "registry")))
    assert place == tmp_path / "registry" / "likeness"
    read = load_adapter(place).state_dict()
    assert all(torch.equal(value, read[key]) for key, value in adapter.state_dict().items())
    assert read_adapter_manifest(place / "adapter.json") == read_adapter_manifest(finished / "adapter.json")


def test_buckets_are_read(finished: Path, adapter: IPAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with object_store() as store:
        place = publish_run(finished, store.uri("registry"))
        assert place == store.uri("registry/likeness")
        served = load_adapter(place).state_dict()
        assert all(torch.equal(value, served[key]) for key, value in adapter.state_dict().items())


def test_what_cannot_be_published_is_said_in_a_sentence(finished: Path, tmp_path: Path) -> None:
    registry = str(tmp_path / "registry")
    with pytest.raises(ConfigError, match="'a/b'"):
        publish_run(finished, registry, "a/b")
    with pytest.raises(DataError, match="no finished run"):
        publish_run(tmp_path, registry)
    weights = finished / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not the adapter that"):
        publish_run(finished, registry)
    (finished / "adapter.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match="cannot be read"):
        publish_run(finished, registry)
    assert not (tmp_path / "registry").exists()
