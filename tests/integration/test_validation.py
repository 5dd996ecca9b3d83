"""Validations beside a run of Ray Train: what they bring, and that nothing that happens to them reaches the run."""

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.cluster import connected
from nigaoe.train.config import ClusterConfig, DataConfig, TrainConfig
from nigaoe.train.records.reading import read_records
from nigaoe.train.records.splitting import split_records, write_split
from nigaoe.train.validating.task import ValidationFailed, ray_validation, validate
from nigaoe.train.watching.history import grid_path, read_validations

MARK = "NIGAOE_TEST"

# Ray runs in this process, and warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Room for one worker and one validation; its processes carry a mark."""
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    with connected(ClusterConfig(num_workers=1), extra_cpus=1):
        yield mark
    del os.environ[MARK]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    folder = tmp_path / "portraits"
    write_portraits(folder, people=6, scenes=1, split="train", seed=0)
    data = {"source": str(folder / "captions.csv"), "prepared": str(tmp_path / "prepared")}
    split = split_records(read_records(DataConfig.model_validate(data)), data["source"], share=0.5, seed=0)
    write_split(split, tmp_path / "split.json")
    return TrainConfig.model_validate(
        {
            "name": "test",
            "out": str(tmp_path / "out"),
            "base": "toy/photo",
            "image_encoder": "toy/image_encoder",
            "data": {**data, "split": str(tmp_path / "split.json")},
            "steps": 30,
            "validation": {"loss_rows": 4, "references": 1, "steps": 1},
        }
    )


def _fit(config: TrainConfig, adapter: Path, steps: list[int]) -> ray.train.Result:
    return TorchTrainer(
        _report,
        train_loop_config={"adapter": str(adapter), "steps": steps, "out": str(config.out)},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=config.name,
            storage_path=str(config.out / "checkpoints"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="validation_loss", checkpoint_score_order="min"
            ),
        ),
        validation_config=ray_validation(config),
    ).fit()


def _report(arguments: dict[str, Any]) -> None:
    """In place of training: the same adapter as the checkpoint of every step."""
    out = Path(arguments["out"])
    (out / "attempts").mkdir(parents=True, exist_ok=True)
    (out / "attempts" / str(time.monotonic_ns())).touch()
    for step in arguments["steps"]:
        folder = out / f"local-{step}"
        folder.mkdir(exist_ok=True)
        (folder / "adapter.safetensors").write_bytes(Path(arguments["adapter"]).read_bytes())
        (folder / "nigaoe.json").write_text(json.dumps({"step": step}))
        ray.train.report({"step": step}, Checkpoint.from_directory(str(folder)), validation=True)


def _worker_processes(mark: str, title: str) -> list[int]:
    """Processes of this test's cluster that do some task."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0")
            if is_ours and title in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.fixture
def adapter_file(adapter: IPAdapter, tmp_path: Path) -> Path:
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_validation_whose_process_dies_costs_the_run_nothing_but_its_figures(
    cluster: str, config: TrainConfig, adapter_file: Path
) -> None:
    killer = threading.Thread(target=_kill_once, args=(cluster, "ray::_measure"))
    killer.start()
    result = _fit(config, adapter_file, [10, 20])
    killer.join()
    assert len(list((config.out / "attempts").iterdir())) == 1, "the workers were not started again"
    died, measured = read_validations(config.out)
    assert died.step == 10
    assert died.failure is not None
    assert died.failure.startswith("its process died")
    assert measured.metrics.keys() >= {"validation_loss", "loss_t000_250", "clip_i"}
    assert grid_path(config.out, 20).is_file()
    metrics = {metrics["step"]: metrics for _, metrics in result.best_checkpoints or []}
    assert metrics == {10: {"step": 10}, 20: {"step": 20, **measured.metrics}}, "Ray has them with the checkpoint"


def _kill_once(mark: str, title: str) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for process in _worker_processes(mark, title):
            os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.05)


def _checkpoint(folder: Path, step: int, adapter: bytes) -> Checkpoint:
    folder.mkdir()
    (folder / "adapter.safetensors").write_bytes(adapter)
    (folder / "nigaoe.json").write_text(json.dumps({"step": step}))
    return Checkpoint.from_directory(str(folder))


def test_a_damaged_adapter_is_told_in_a_sentence(
    cluster: str, config: TrainConfig, adapter_file: Path, tmp_path: Path
) -> None:
    checkpoint = _checkpoint(tmp_path / "checkpoint", 30, adapter_file.read_bytes()[:5000])
    with pytest.raises(ValidationFailed, match="is damaged, truncated or no adapter at all"):
        validate(checkpoint, config=config.model_dump(mode="json"))
    (result,) = read_validations(config.out)
    assert result.step == 30
    assert "damaged" in str(result.failure)


def test_a_validation_that_takes_too_long_is_ended(
    cluster: str, config: TrainConfig, adapter_file: Path, tmp_path: Path
) -> None:
    assert config.validation is not None
    endless = config.model_copy(
        update={"validation": config.validation.model_copy(update={"steps": 999, "timeout_s": 2})}
    )
    checkpoint = _checkpoint(tmp_path / "checkpoint", 40, adapter_file.read_bytes())
    with pytest.raises(ValidationFailed, match=r"longer than 2 s.*validation\.timeout_s"):
        validate(checkpoint, config=endless.model_dump(mode="json"))
    (result,) = read_validations(config.out)
    assert "longer than 2 s" in str(result.failure)
    deadline = time.monotonic() + 30
    while _worker_processes(cluster, "ray::_measure") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _worker_processes(cluster, "ray::_measure"), "it holds its CPU no longer"
