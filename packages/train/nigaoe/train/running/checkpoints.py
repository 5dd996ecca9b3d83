"""Checkpoints: the adapter, its optimizer's moments and its average, whole and by name; never the frozen base."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import ORIGIN_KEY, save_adapter
from nigaoe.core.errors import DataError
from nigaoe.train.running.engines import Engine
from nigaoe.train.running.state import optimizer_state, whole_weights

ADAPTER, STATE, NOTE = "adapter.safetensors", "state.safetensors", "nigaoe.json"
"""The weights to be used: the average where there is one; what else training goes on from; and where it stood."""


@dataclass(frozen=True)
class Restored:
    """Where a run goes on."""

    step: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    average: dict[str, Tensor] | None


def save(
    engine: Engine,
    adapter: IPAdapter,
    average: dict[str, Tensor] | None,
    step: int,
    metrics: dict[str, Any],
    origin: dict[str, str],
    *,
    is_validated: bool = False,
) -> None:
    """Take the state, which all workers do together, and let the first one write it while training goes on.

    `step`: steps done. Ray registers a checkpoint when it is whole on the run's storage, and never before.
    """
    moments = optimizer_state(engine, adapter)
    is_first = ray.train.get_context().get_world_rank() == 0
    with whole_weights(engine, adapter) as gathered:
        weights = {name: x.detach().to("cpu", copy=True) for name, x in gathered.items()} if is_first else {}
    checkpoint = None
    if is_first:
        folder = Path(tempfile.mkdtemp(prefix="nigaoe-checkpoint-"))
        state = {f"moments.{name}": x for name, x in moments.items()}
        used = weights
        if average is not None:
            state |= {f"weights.{name}": x for name, x in weights.items()}
            used = {name: x.cpu() for name, x in average.items()}
        save_file({name: x.contiguous() for name, x in state.items()}, folder / STATE)
        whole = IPAdapter.of_state(used, adapter.variant, "the run's adapter")
        save_adapter(whole, folder / ADAPTER, {ORIGIN_KEY: json.dumps(origin)})
        note = {"step": step, "world_size": engine.world_size, **metrics}
        (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")
        checkpoint = Checkpoint.from_directory(str(folder))
    ray.train.report(
        {**metrics, "step": step},
        checkpoint=checkpoint,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        validation=is_validated,
    )


def restore() -> Restored | None:
    """The latest registered checkpoint, if there is one, on the CPU.

    Raises:
        DataError: It is damaged.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        return read(Path(directory))


def is_whole(folder: Path) -> bool:
    """Whether all of a checkpoint has come to its folder; nothing but headers is read."""
    try:
        json.loads((folder / NOTE).read_text(encoding="utf-8"))
        for name in (STATE, ADAPTER):
            with safe_open(folder / name, "pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def read(folder: Path) -> Restored:
    """A checkpoint from its folder.

    Raises:
        DataError: It is damaged.
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        state, used = load_file(folder / STATE), load_file(folder / ADAPTER)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"checkpoint {str(folder)!r} cannot be read ({error}); delete it and start again, which goes on from the "
            "one before"
        ) from None
    moments = {name.removeprefix("moments."): x for name, x in state.items() if name.startswith("moments.")}
    weights = {name.removeprefix("weights."): x for name, x in state.items() if name.startswith("weights.")}
    return Restored(int(note["step"]), weights or used, moments, used if weights else None)
