"""What may change when a run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrainConfig
from nigaoe.train.running.claims import claim, newest_checkpoint, remove_unfinished_checkpoints


def _config(out: Path, **changes: Any) -> TrainConfig:
    values = {
        "name": "run",
        "out": str(out),
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {"source": "a.csv", "prepared": "p"},
        "steps": 10,
    }
    return TrainConfig.model_validate(values | changes)


def _checkpoint(out: Path, name: str) -> Path:
    folder = out / "checkpoints" / "run" / name
    folder.mkdir(parents=True)
    for file in ("adapter.safetensors", "state.safetensors"):
        save_file({"x": torch.arange(100.0)}, folder / file)
    (folder / "nigaoe.json").write_text('{"step": 5}')
    return folder


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    claim(_config(tmp_path), "data")
    _checkpoint(tmp_path, "checkpoint_1")
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 20},
        {"cluster": {"num_workers": 1}},
        {"deepspeed": {"zero_stage": 2}},
        {"micro_batch_size": 2, "gradient_checkpointing": True, "checkpoint_every": 3},
    ],
)
def test_what_does_not_change_what_is_learnt_may_change(begun: Path, changes: dict[str, Any]) -> None:
    claim(_config(begun, **changes), "data")
    assert json.loads((begun / "run.json").read_text())["steps"] == changes.get("steps", 10)


@pytest.mark.parametrize(
    ("changes", "dataset", "words"),
    [
        ({"optimizer": {"lr": 0.5}}, "data", "optimizer.lr is 0.5, was 0.0001"),
        ({"batch_size": 4}, "data", "batch_size is 4, was 8"),
        ({}, "other", "dataset is 'other', was 'data'"),
        ({"optimizer": {"schedule": "cosine"}, "steps": 20}, "data", "steps is 20, was 10"),
    ],
)
def test_another_recipe_is_told_key_by_key(begun: Path, changes: dict[str, Any], dataset: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        claim(_config(begun, **changes), dataset)
    message = str(caught.value)
    assert words in message
    assert "fork it with another name and out and init_from=" in message
    assert message.endswith("checkpoint_1/adapter.safetensors")
    assert "\n" not in message


def test_before_the_first_checkpoint_anything_may_change(tmp_path: Path) -> None:
    claim(_config(tmp_path), "data")
    claim(_config(tmp_path, batch_size=2), "other")


def test_every_worker_has_a_picture(tmp_path: Path) -> None:
    _config(tmp_path, batch_size=8, cluster={"num_workers": 4, "min_workers": 2})
    with pytest.raises(ValueError, match="batch_size 3 has no picture for some of 4 workers; take 4 or more"):
        _config(tmp_path, batch_size=3, cluster={"num_workers": 4})


@pytest.mark.parametrize("left", ["adapter.safetensors", "state.safetensors", "nigaoe.json"])
@pytest.mark.parametrize("share", [None, 0.0, 0.9])
def test_what_a_full_disk_left_of_a_checkpoint_is_none(begun: Path, left: str, share: float | None) -> None:
    """A file that is missing, empty or cut."""
    torn = _checkpoint(begun, "checkpoint_2")
    content = (torn / left).read_bytes()
    (torn / left).unlink()
    if share is not None:
        (torn / left).write_bytes(content[: int(share * len(content))])
    assert newest_checkpoint(_config(begun)) == torn.with_name("checkpoint_1")
    remove_unfinished_checkpoints(_config(begun))
    assert [folder.name for folder in torn.parent.iterdir()] == ["checkpoint_1"]
