"""Training for real: Ray, DeepSpeed, two workers."""

import json
from pathlib import Path

import pytest
import torch

from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.images import read_image
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.core.training_pictures import recorded_for
from training_runs import run, starts, write_config


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_portraits(folder / "portraits", people=16, scenes=2, split="train", seed=0)
    run("prepare", write_config(folder, folder / "unused", steps=1))
    return folder


@pytest.mark.timeout(600)
def test_two_workers_train_and_publish_an_adapter(dataset: Path, tmp_path: Path) -> None:
    output = run("train", write_config(dataset, tmp_path / "run", steps=12))
    assert "adapter.safetensors" in output
    manifest = json.loads((tmp_path / "run" / "adapter.json").read_text())
    assert manifest["training"]["steps"] == 12
    assert manifest["training"]["samples_seen"] == 12 * 8
    assert starts(tmp_path / "run")[0]["world_size"] == 2
    load_adapter(tmp_path / "run" / "adapter.safetensors")
    recorded = recorded_for(tmp_path / "run" / "adapter.safetensors")
    pictures = [read_image(path) for path in (dataset / "portraits").glob("*.jpg")]
    assert recorded.gap is None
    assert recorded.pictures is not None
    assert len(recorded.pictures) == len(pictures) == 32
    assert all(recorded.pictures.holds(picture) for picture in pictures)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_variant_trains_on_features_of_its_own(dataset: Path, tmp_path: Path) -> None:
    config = write_config(dataset, tmp_path / "run", steps=3, variant="plus-face")
    run("prepare", config)
    run("train", config)
    adapter = load_adapter(tmp_path / "run" / "adapter.safetensors")
    assert adapter.variant.name == "plus"
    assert json.loads((tmp_path / "run" / "adapter.json").read_text())["variant"] == "plus"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_compiled_code_learns_what_plain_code_does(dataset: Path, tmp_path: Path) -> None:
    run("train", write_config(dataset, tmp_path / "plain", steps=4, precision="float32"))
    compiling = write_config(dataset, tmp_path / "compiled", steps=4, precision="float32", compile=True)
    run("train", compiling, timeout_s=1200)
    plain, compiled = (
        load_adapter(tmp_path / name / "adapter.safetensors").state_dict() for name in ("plain", "compiled")
    )
    for name, weight in plain.items():
        # Adam's first steps are the signs of gradients, some of which are but rounding.
        torch.testing.assert_close(compiled[name], weight, rtol=0, atol=1e-2 * float(weight.abs().max()))
