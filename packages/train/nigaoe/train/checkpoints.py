"""Checkpoints: DeepSpeed's own shards, the averaged weights, and a note of where the run stood."""

import json
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

TAG = "state"


def save(engine: Any, step: int, average: dict[str, Tensor] | None, metrics: dict[str, Any]) -> None:
    """Every worker writes its shard and reports; Ray makes one directory of them and registers it when it is whole."""
    folder = Path(tempfile.mkdtemp(prefix="nigaoe-"))
    engine.save_checkpoint(str(folder), tag=TAG, client_state={"step": step}, exclude_frozen_parameters=True)
    context = ray.train.get_context()
    if context.get_world_rank() == 0:
        if average is not None:
            save_file({key: value.contiguous() for key, value in average.items()}, folder / "average.safetensors")
        note = {"step": step, "world_size": context.get_world_size()}
        (folder / "nigaoe.json").write_text(json.dumps(note), encoding="utf-8")
    ray.train.report(
        {**metrics, "step": step},
        checkpoint=Checkpoint.from_directory(str(folder)),
        delete_local_checkpoint_after_upload=True,
    )


def restore(engine: Any, average: dict[str, Tensor] | None) -> int:
    """Load the latest registered checkpoint, if there is one; returns the step to go on from.

    Raises:
        RuntimeError: It was written by another number of workers.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as directory:
        folder = Path(directory)
        note = json.loads((folder / "nigaoe.json").read_text(encoding="utf-8"))
        world_size = ray.train.get_context().get_world_size()
        if note["world_size"] != world_size:
            raise RuntimeError(
                f"the checkpoint was written by {note['world_size']} workers and {world_size} are running; "
                f"set cluster.num_workers to {note['world_size']} or start a run of another name"
            )
        engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if average is not None:
            stored = load_file(folder / "average.safetensors")
            for key, value in average.items():
                value.copy_(stored[key])
        # Nobody may leave, and let the directory go, before the last worker has read its shard.
        torch.distributed.barrier()
    return int(note["step"])
