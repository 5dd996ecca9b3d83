"""Whose run a folder is: what may change when it goes on, and what makes it another run."""

import json
import shutil
from pathlib import Path
from typing import Any

from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrainConfig
from nigaoe.train.running.checkpoints import is_whole

FREE = (
    *("name", "out", "steps", "cluster", "tracking", "deepspeed", "validation", "publish_to"),
    *("checkpoint_every", "keep_checkpoints", "micro_batch_size", "compile", "gradient_checkpointing"),
    *("data.prepared", "data.shard_rows", "data.source", "data.image_root", "data.quarantine", "data.cached"),
)
"""Keys, or sections, that change how a run is done or how long, and not what it learns; of the data its hash counts."""


def claim(config: TrainConfig, dataset: str) -> None:
    """Write down what a run is, in `run.json`; refuse to go on with one that was something else.

    `dataset`: fingerprint of what it trains on.

    Raises:
        ConfigError: The recipe has changed since its first checkpoint; says what, and how to fork the run.
    """
    ours = {**config.model_dump(mode="json"), "dataset": dataset}
    path = config.out / "run.json"
    newest = newest_checkpoint(config)
    if path.is_file() and newest is not None:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        changed = _changes(_flat(theirs), _flat(ours), config)
        if changed:
            raise ConfigError(
                f"run {config.name!r} in {str(config.out)!r} was begun with another recipe: {'; '.join(changed)}; "
                f"put that back to go on, or fork it with another name and out and "
                f"init_from={newest / 'adapter.safetensors'}"
            )
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")


def newest_checkpoint(config: TrainConfig) -> Path | None:
    """The last checkpoint of a run that has one."""
    whole = [folder for folder in _checkpoints(config) if is_whole(folder)]
    return max(whole, key=lambda folder: folder.stat().st_mtime, default=None)


def remove_unfinished_checkpoints(config: TrainConfig) -> None:
    """What a full disk or a kill left of checkpoints that Ray never came to register: nobody would read it again."""
    for folder in _checkpoints(config):
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(config: TrainConfig) -> list[Path]:
    return list((config.out / "checkpoints" / config.name).glob("checkpoint_*/"))


def _changes(theirs: dict[str, Any], ours: dict[str, Any], config: TrainConfig) -> list[str]:
    free = set(FREE)
    if config.optimizer.schedule != "constant":
        # The learning rate of every step depends on how many there will be.
        free.remove("steps")
    keys = [k for k in ours if k in theirs and not any(k == name or k.startswith(f"{name}.") for name in free)]
    return [f"{key} is {ours[key]!r}, was {theirs[key]!r}" for key in keys if ours[key] != theirs[key]]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
