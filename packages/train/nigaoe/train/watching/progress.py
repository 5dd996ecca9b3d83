"""Training progress, from the first worker to whoever started the job and to whoever watches it with Prometheus."""

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from tqdm import tqdm

from nigaoe.core.repeating import Repeating
from nigaoe.train.watching import gauges

POLL_S, POLL_LOG_S = 1.0, 30.0
"""In a terminal; in the log of a job, where every look is a line."""
WORTH_SAYING = 0.05
"""Share of the time that workers wait for data, from which on the bar says so."""


def words(line: Mapping[str, Any]) -> str:
    """What the bar says of a line of `StepFigures`."""
    rate = line["images_per_s"]
    said = f"loss {line['loss']:.4f}, {rate:.{1 if rate < 10 else 0}f} images/s"
    waiting = line["data_wait_s"] / line["step_s"] if line["step_s"] > 0 else 0.0
    return f"{said}, waits {waiting:.0%} for data" if waiting > WORTH_SAYING else said


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Holds the latest line; the first worker writes, the driver reads, and Prometheus sees it as gauges.

    It outlives the workers, so that a run whose workers are lost is seen to stand still.
    """

    def __init__(self, run: str, steps: int) -> None:
        self._latest: dict[str, Any] = {}
        self._figures = figures = gauges.RunFigures(steps, time.time())
        show = gauges.ray_gauges(run)
        Repeating(lambda: show(figures.values()), gauges.EVERY_S).start()

    def started(self, step: int, world_size: int) -> None:
        """Workers begin, or begin again."""
        self._figures.started(step, world_size)

    def post(self, line: dict[str, Any]) -> None:
        """Replace the line."""
        self._latest = line
        self._figures.logged(line, time.time())

    def checkpoint_taken(self, step: int) -> None:
        """A checkpoint begins its way to the storage."""
        self._figures.checkpoint_taken(step, time.time())

    def checkpoint_stored(self, step: int) -> None:
        """It has come there."""
        self._figures.checkpoint_stored(step, time.time())

    def read(self) -> dict[str, Any]:
        """The latest line; empty before the first."""
        return self._latest


class ProgressBar:
    """A bar in the driver's terminal that follows a board until closed."""

    def __init__(self, board: Any, steps: int, name: str) -> None:
        self._board, self._stop = board, threading.Event()
        self._bar = tqdm(total=steps, desc=f"train {name}", unit="step", dynamic_ncols=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ProgressBar":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        self._show()
        self._bar.close()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S if sys.stderr.isatty() else POLL_LOG_S):
            self._show()

    def _show(self) -> None:
        try:
            line = ray.get(self._board.read.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return
        if line and self._bar.n == 0:
            # From here on: the start of a cluster says nothing of how long the steps will take.
            self._bar.initial = line["step"]
            self._bar.unpause()
        if line:
            self._bar.n = line["step"]
            self._bar.set_postfix_str(words(line))
            self._bar.refresh()
