"""Publishing: what a registry holds, in which order it gets there, and who can read it."""

import json
from pathlib import Path

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.errors import AdapterError, ConfigError, DataError
from nigaoe.core.manifests import AdapterManifest, read_adapter_manifest, write_json
from nigaoe.core.storage import write_whole
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.models import load_models, require_loadable
from nigaoe.train.config import TrainConfig
from nigaoe.train.shipping.publish import base_hash, describe_adapter, publish, publish_run
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
    described = describe_adapter(config, out / "adapter.safetensors", "rows-of-today", None)
    write_json(described, out / "adapter.json")
    return out


def test_a_manifest_says_what_the_adapter_came_from(finished: Path, adapter: IPAdapter) -> None:
    manifest = read_adapter_manifest(finished / "adapter.json")
    assert (manifest.variant, manifest.dataset, manifest.samples_seen) == ("base", "rows-of-today", 80)
    assert manifest.parameters == sum(x.numel() for x in adapter.parameters())
    assert manifest.metrics["training"] == {"step": 20, "loss": 0.25, "images_per_s": 10.0}
    assert manifest.metrics["last"]["validation_loss"] == 0.4
    assert manifest.metrics["best"] == {"step": 10, "validation_loss": 0.3, "clip_i": 0.8}
    assert manifest.base_hash == base_hash("toy/photo")
    assert base_hash("toy/anime") != base_hash("toy/photo")
    assert manifest.code_version.startswith("0.1.0")
    assert TrainConfig.model_validate(manifest.recipe).steps == 20


def test_servers_read_what_was_published(finished: Path, adapter: IPAdapter, tmp_path: Path) -> None:
    place = Path(publish_run(finished, str(tmp_path / "registry")))
    assert place == tmp_path / "registry" / "likeness"
    read = load_adapter(place).state_dict()
    assert all(torch.equal(value, read[key]) for key, value in adapter.state_dict().items())
    assert read_adapter_manifest(place / "adapter.json") == read_adapter_manifest(finished / "adapter.json")
    config = ServeConfig(bases=["toy/anime"], image_encoder="toy/image_encoder", adapters={"likeness": place})
    require_loadable(config)
    assert set(load_models(config).adapters) == {"likeness"}


def test_servers_read_buckets(
    finished: Path, adapter: IPAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with object_store() as store:
        place = publish_run(finished, store.uri("registry"))
        assert place == store.uri("registry/likeness")
        config = ServeConfig(bases=["toy/photo"], image_encoder="toy/image_encoder", adapters={"likeness": place})
        served = load_models(config).adapters["likeness"].state_dict()
        assert all(torch.equal(value, served[key]) for key, value in adapter.state_dict().items())
        # Another replica on the machine finds the file there; one whose bucket holds something else is told.
        (kept,) = (tmp_path / "cache").rglob("adapter.safetensors")
        load_adapter(place)
        write_whole(store.uri(f"registry/likeness/versions/{sha_of(finished)[:12]}/adapter.safetensors"), b"torn")
        load_adapter(place)
        kept.unlink()
        with pytest.raises(AdapterError, match=r"is not the file that adapter\.json speaks of"):
            load_adapter(place)
        with pytest.raises(AdapterError, match="'s3://pictures/registry/nobody"):
            load_adapter(store.uri("registry/nobody"))


def sha_of(out: Path) -> str:
    return read_adapter_manifest(out / "adapter.json").sha256


def test_what_was_published_before_stays(finished: Path, adapter: IPAdapter, tmp_path: Path) -> None:
    registry = str(tmp_path / "registry")
    first = read_adapter_manifest(finished / "adapter.json")
    place = Path(publish_run(finished, registry, "face"))
    config = TrainConfig.model_validate(first.recipe)
    other = tmp_path / "other.safetensors"
    save_adapter(adapter, other, dtype=torch.float16)
    second = describe_adapter(config, other, "rows-of-tomorrow", None)
    publish(other, second, registry, "face")
    assert read_adapter_manifest(place / "adapter.json").dataset == "rows-of-tomorrow"
    assert (place / "adapter.safetensors").read_bytes() == other.read_bytes()
    for manifest in (first, second):
        version = place / "versions" / manifest.sha256[:12]
        assert read_adapter_manifest(version / "adapter.json") == manifest
        assert load_adapter(version) is not None
    assert not list(place.rglob("*.part"))


def test_a_manifest_is_never_there_before_its_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks between any two writes finds weights of the hash that the manifest beside them names."""
    place, seen = tmp_path / "registry" / "likeness", 0

    def watched(uri: str, content: bytes) -> None:
        nonlocal seen
        write_whole(uri, content)
        for found in place.rglob("adapter.json"):
            manifest = AdapterManifest.model_validate_json(found.read_text())
            assert (place / "versions" / manifest.sha256[:12] / "adapter.safetensors").is_file()
            assert (found.parent / "adapter.safetensors").is_file()
            seen += 1

    monkeypatch.setattr("nigaoe.train.shipping.publish.write_whole", watched)
    publish_run(finished, str(tmp_path / "registry"))
    assert seen > 0


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
