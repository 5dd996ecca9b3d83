"""Validation beside training: a Ray task that measures a checkpoint on held-out people, while the workers go on.

Nothing that happens in here may touch the run. Ray takes a validation that raises for failed and goes on; but one whose
process dies (out of memory, a crash of a library) raises in Ray's controller and ends the run. So what Ray calls holds
nothing that can die: it starts another task, waits, and turns every end into a result or an exception.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import torch
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.train import Checkpoint, ValidationConfig, ValidationTaskConfig

from nigaoe.core.errors import NigaoeError
from nigaoe.train.config import TrainConfig
from nigaoe.train.watching.history import ValidationResult, write_validation

ADAPTER_FILE, NOTE_FILE = "adapter.safetensors", "nigaoe.json"
"""Of a checkpoint."""
LATEST_S = 120
"""Ray's own limit comes this much after ours, whose end is told in a sentence."""


class ValidationFailed(NigaoeError):
    """A checkpoint could not be measured; the run goes on."""


def ray_validation(config: TrainConfig) -> ValidationConfig | None:
    """What `TorchTrainer` is told; None where nothing is to be validated."""
    if config.validation is None:
        return None
    return ValidationConfig(
        fn=validate,
        task_config=ValidationTaskConfig(
            fn_kwargs={"config": config.model_dump(mode="json")}, timeout_s=config.validation.timeout_s + LATEST_S
        ),
        # It only waits.
        ray_remote_kwargs={"num_cpus": 0},
    )


def validate(checkpoint: Checkpoint, **kwargs: Any) -> dict[str, float]:
    """Measure a checkpoint and write `validation/step-*.json` and its pictures; `config`: of the run, as JSON.

    Raises:
        ValidationFailed: For whatever reason; it stands in the result's file.
    """
    config = TrainConfig.model_validate(kwargs["config"])
    step = int(_note(checkpoint)["step"])
    began = time.monotonic()
    try:
        return dict(_measured_apart(checkpoint, config).metrics)
    except ValidationFailed as error:
        failure = ValidationResult(step=step, failure=str(error), seconds=round(time.monotonic() - began, 3))
        write_validation(config.out, failure)
        raise


def _measured_apart(checkpoint: Checkpoint, config: TrainConfig) -> ValidationResult:
    assert config.validation is not None
    settings = config.validation
    task = _measure.options(num_cpus=1, num_gpus=1 if settings.use_gpu else 0, max_retries=0).remote(
        checkpoint, config.model_dump(mode="json")
    )
    done, _ = ray.wait([task], timeout=settings.timeout_s)
    if not done:
        ray.cancel(task, force=True)
        raise ValidationFailed(
            f"it took longer than {settings.timeout_s:g} s, waiting for a free {'GPU' if settings.use_gpu else 'CPU'} "
            "included; raise validation.timeout_s, or ask for less"
        )
    try:
        result: ValidationResult = ray.get(task)
    except TaskCancelledError:
        # The run was stopped, and Ray validates the checkpoint when it goes on.
        raise
    except RayTaskError as error:
        raise ValidationFailed(_first_line(error.cause)) from None
    except RayError as error:
        raise ValidationFailed(f"its process died ({_first_line(error)})") from None
    return result


@ray.remote
def _measure(checkpoint: Checkpoint, config_json: dict[str, Any]) -> ValidationResult:
    # Here, for the driver and Ray's controller import this module, and measure nothing.
    from nigaoe.train.records.splitting import held_out_records
    from nigaoe.train.validating.measure import measure_adapter

    config = TrainConfig.model_validate(config_json)
    assert config.validation is not None
    device = torch.device("cuda" if config.validation.use_gpu else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    with _local_file(checkpoint, ADAPTER_FILE) as path:
        step = int(_note(checkpoint)["step"])
        return measure_adapter(path, step, config, held_out_records(config.data), device)


def _note(checkpoint: Checkpoint) -> dict[str, Any]:
    with _local_file(checkpoint, NOTE_FILE) as path:
        note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return note


@contextmanager
def _local_file(checkpoint: Checkpoint, name: str) -> Iterator[Path]:
    """One file of a checkpoint, wherever it is; the optimizer's, which are far larger, stay there."""
    with tempfile.TemporaryDirectory(prefix="nigaoe-validation-") as folder:
        path = Path(folder) / name
        pyarrow.fs.copy_files(
            f"{checkpoint.path}/{name}", str(path), checkpoint.filesystem, pyarrow.fs.LocalFileSystem()
        )
        yield path


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
