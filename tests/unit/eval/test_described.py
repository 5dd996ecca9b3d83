"""An evaluation as a job: what the cluster is told of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nigaoe.core.jobs import describe_job, job_kinds
from nigaoe.eval.config import EvalConfig, FolderProtocolConfig
from nigaoe.eval.described import eval_job


def write_config(**changes: Any) -> Path:
    config = {"out": "runs/face", "protocol": {"kind": "toy", "n": 4}, "adapters": {"own": "runs/train"}}
    Path("eval.yaml").write_text(yaml.safe_dump(config | changes))
    return Path("eval.yaml")


def test_paths_are_absolute_and_names_stay(in_tmp: Path) -> None:
    Path("model").mkdir()
    protocol = {
        "kind": "folder",
        "references": "faces",
        "prompts": ["a person"],
        "bases": {"hub": "somebody/base", "here": "model"},
        "image_encoder": "toy/image_encoder",
        "clip": "model",
    }
    metrics = {"features": ["efficientnet_lite0", "clip:model"], "lpips": "vgg.pth", "face_encoder": "onnx:face.onnx"}
    path = write_config(
        protocol=protocol,
        metrics=metrics,
        adapters={"own": "runs/train", "toy": "toy/adapter"},
        folders={"other": {"pictures": "theirs", "like": "hub-own"}},
    )
    plan = eval_job(path, ["seed=3", "cache=kept"])
    told = EvalConfig.model_validate(yaml.safe_load(plan.config))
    assert plan.kind == "eval"
    assert plan.name == "face"
    assert plan.out == told.out == in_tmp / "runs/face"
    assert told.ray_address == "auto"
    assert told.seed == 3
    # The adapter need not be there yet: the job before this one writes it.
    assert told.adapters == {"own": str(in_tmp / "runs/train"), "toy": "toy/adapter"}
    assert isinstance(told.protocol, FolderProtocolConfig)
    assert told.protocol.references == in_tmp / "faces"
    assert told.protocol.bases == {"hub": "somebody/base", "here": str(in_tmp / "model")}
    assert told.metrics.features == ["efficientnet_lite0", f"clip:{in_tmp / 'model'}"]
    assert told.metrics.lpips == in_tmp / "vgg.pth"
    assert told.metrics.face_encoder == f"onnx:{in_tmp / 'face.onnx'}"
    assert told.folders["other"].pictures == in_tmp / "theirs"
    assert told.cache == in_tmp / "kept"
    assert "HF_TOKEN" in plan.variables


@pytest.mark.usefixtures("in_tmp")
def test_a_key_is_named_only_where_it_is_needed() -> None:
    assert eval_job(write_config(), []).variables == ()
    server = {"url": "https://example.org", "like": "anime-own", "api_key_env": "THEIR_KEY"}
    assert eval_job(write_config(servers={"theirs": server}), []).variables == ("THEIR_KEY",)
    assert "WANDB_API_KEY" in eval_job(write_config(wandb_project="faces"), []).variables


@pytest.mark.usefixtures("in_tmp")
def test_the_entry_points_lead_here() -> None:
    assert job_kinds() == ["eval", "prepare", "train"]
    path = write_config()
    assert describe_job("eval", path) == eval_job(path, [])
