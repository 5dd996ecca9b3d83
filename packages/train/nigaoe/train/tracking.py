"""Where a run's figures go: a JSON-lines file, Weights & Biases as configured, a bar in the driver's terminal."""

import json
import os
from pathlib import Path
from typing import Any

from nigaoe.train.config import TrainConfig


class Tracker:
    """Used by the first worker only."""

    def __init__(self, config: TrainConfig, board: Any) -> None:
        self._board = board
        self._file = (Path(config.out) / "metrics.jsonl").open("a", encoding="utf-8")
        self._wandb = _start_wandb(config)

    def started(self, step: int, world_size: int) -> None:
        """Note a start or a restart, and which process writes."""
        self._write({"event": "start", "step": step, "world_size": world_size, "pid": os.getpid()})

    def log(self, step: int, loss: float, images_per_s: float, lr: float) -> None:
        """One line: mean loss since the last one, images per second over all workers."""
        line = {"step": step, "loss": loss, "images_per_s": images_per_s, "lr": lr}
        self._write(line)
        self._board.post.remote(line)
        if self._wandb is not None:
            self._wandb.log(line, step=step)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(config: TrainConfig) -> Any:
    if config.tracking.mode == "disabled":
        return None
    import wandb

    # An explicit mode never asks for an account; offline runs are uploaded later with `wandb sync`.
    os.environ.setdefault("WANDB_SILENT", "true")
    return wandb.init(
        project=config.tracking.project,
        name=config.name,
        id=config.name,
        resume="allow",
        mode=config.tracking.mode,
        dir=str(config.out),
        config=config.model_dump(mode="json"),
    )
