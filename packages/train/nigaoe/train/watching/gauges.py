"""Figures of a run for Prometheus: Ray's agent shows each as `ray_nigaoe_train_...`, with the run's name as `run`."""

from collections.abc import Callable, Mapping
from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.metrics import Gauge

EVERY_S = 5.0
"""Ray forgets a gauge that was not set for 20 s, and what stands still must be seen to stand."""
GIB = 2**30

GAUGES = {
    "steps_planned": "Steps that the run is to take.",
    "steps_done": "Steps done; less than before where a run went on from a checkpoint.",
    "last_step_timestamp_seconds": "When steps were last known to be done, or when the run was begun (Unix time).",
    "starts": "How often the workers were started.",
    "workers": "Workers that train together.",
    "loss": "Mean over the latest steps.",
    "learning_rate": "Of the latest step.",
    "gradient_norm": "Before clipping.",
    "images_per_second": "Of all workers.",
    "step_seconds": "From step to step.",
    "data_wait_ratio": "Share of the time that the first worker waited for data.",
    "mfu_ratio": "Share of what the device can compute at most.",
    "memory_bytes": "The most that the first worker's device held.",
    "checkpoint_step": "Steps in the latest checkpoint that is whole on the run's storage.",
    "checkpoint_timestamp_seconds": "When that one had come there (Unix time).",
    "checkpoints_pending": "Checkpoints on their way to the storage.",
    "checkpoint_pending_since_seconds": "When the oldest of these was taken (Unix time); 0 where there is none.",
}
"""What each says; their names as Ray is given them begin with `PREFIX`."""
PREFIX = "nigaoe_train_"


class RunFigures:
    """What a run is known to have done; times are Unix times."""

    def __init__(self, steps: int, now_s: float) -> None:
        self._values = {"steps_planned": float(steps), "steps_done": 0.0, "starts": 0.0}
        self._values["last_step_timestamp_seconds"] = now_s
        self._pending: dict[int, float] = {}

    def started(self, step: int, world_size: int) -> None:
        """Workers begin after so many steps. What earlier ones had not stored is lost with them."""
        self._learnt({"starts": self._values["starts"] + 1, "steps_done": step, "workers": world_size})
        self._pending = {}

    def logged(self, line: Mapping[str, Any], now_s: float) -> None:
        """A line of `StepFigures`."""
        found: dict[str, float | None] = {
            "steps_done": line["step"],
            "loss": line["loss"],
            "learning_rate": line["lr"],
            "gradient_norm": line["grad_norm"],
            "images_per_second": line["images_per_s"],
            "step_seconds": line["step_s"],
            "data_wait_ratio": line["data_wait_s"] / line["step_s"] if line["step_s"] > 0 else 0.0,
            "mfu_ratio": line["mfu"],
            "memory_bytes": line["memory_gib"] * GIB,
            "last_step_timestamp_seconds": now_s,
        }
        self._learnt({name: value for name, value in found.items() if value is not None})

    def checkpoint_taken(self, step: int, now_s: float) -> None:
        """One begins its way to the storage."""
        self._pending = self._pending | {step: now_s}

    def checkpoint_stored(self, step: int, now_s: float) -> None:
        """It is there, and with it those before."""
        self._pending = {other: since for other, since in self._pending.items() if other > step}
        self._learnt({"checkpoint_step": step, "checkpoint_timestamp_seconds": now_s})

    def values(self) -> dict[str, float]:
        """As the gauges show them; those of which nothing is known yet are missing."""
        pending = self._pending
        return self._values | {
            "checkpoints_pending": float(len(pending)),
            "checkpoint_pending_since_seconds": min(pending.values(), default=0.0),
        }

    def _learnt(self, values: Mapping[str, float]) -> None:
        # A new dict, for another thread may be reading the old one.
        self._values = self._values | {name: float(value) for name, value in values.items()}


def ray_gauges(run: str) -> Callable[[Mapping[str, float]], None]:
    """Gauges of this process, which must be connected to Ray; returns what sets them."""
    gauges = {name: Gauge(PREFIX + name, text, ("run",)) for name, text in GAUGES.items()}

    def show(values: Mapping[str, float]) -> None:
        for name, value in values.items():
            gauges[name].set(value, {"run": run})

    return show


class StoredCheckpoints(UserCallback):
    """Tells a `ProgressBoard` of every checkpoint that Ray registered. Lives in Ray's controller."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self._board.checkpoint_stored.remote(int(metrics[0]["step"]))
