"""Where a run's figures go: a JSON-lines file, Weights & Biases as configured, a bar in the driver's terminal."""

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple, get_args

from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrackingConfig, TrackingMode, TrainConfig
from nigaoe.train.watching.history import METRICS_FILE, ValidationResult, grid_path, read_validations

log = logging.getLogger(__name__)


class StepFigures(NamedTuple):
    """Of the steps since the last line: means, where nothing else is said."""

    step: int
    """Steps done."""
    loss: float
    lr: float
    """Of the last step."""
    grad_norm: float
    """Before clipping."""
    images_per_s: float
    """Over all workers."""
    step_s: float
    """Seconds from step to step."""
    data_wait_s: float
    """Seconds of these that the first worker waited for data."""
    tflops: float | None
    """Of each worker, from counted operations; None: not counted."""
    mfu: float | None
    """Share of what the device could do at most; None: nobody knows how much that is."""
    memory_gib: float
    """The most that was allocated on the device; on a CPU the process's own."""


class Tracker:
    """Used by the first worker, and by the driver for what came after it."""

    def __init__(self, config: TrainConfig, board: Any | None) -> None:
        """`board`: a `ProgressBoard`, if anybody watches."""
        self._out, self._board = Path(config.out), board
        path = self._out / METRICS_FILE
        self._logged = _logged_validations(path)
        self._step = 0
        self._file = path.open("a", encoding="utf-8")
        if _is_torn(path):
            self._file.write("\n")
        self._wandb, self._problem = _start_wandb(config)

    def started(self, step: int, world_size: int) -> None:
        """Note a start or a restart, and which process writes."""
        self._step = step
        self._write({"event": "start", "step": step, "world_size": world_size, "pid": os.getpid()})
        if self._board is not None:
            self._board.started.remote(step, world_size)
        if self._problem is not None:
            self._write({"event": "note", "step": step, "text": self._problem})
            self._problem = None

    def log(self, figures: StepFigures) -> None:
        """One line; validations that ended meanwhile get theirs."""
        self._step, line = figures.step, figures._asdict()
        self._write(line)
        if self._board is not None:
            self._board.post.remote(line)
        if self._wandb is not None:
            self._wandb.log({key: value for key, value in line.items() if value is not None})
        self.log_validations()

    def checkpoint_taken(self, step: int) -> None:
        """Let those who watch know that one is on its way; the controller tells them when it has come."""
        if self._board is not None:
            self._board.checkpoint_taken.remote(step)

    def log_validations(self) -> None:
        """Those that nobody logged yet."""
        # One that failed may have been tried again, with another end.
        for result in read_validations(self._out, known=self._logged.done):
            if result.failure is not None and result.step in self._logged.failed:
                continue
            (self._logged.done if result.failure is None else self._logged.failed).add(result.step)
            if result.failure is not None:
                self._write({"event": "validation_failed", "step": result.step, "reason": result.failure})
                continue
            self._write({"event": "validation", "step": result.step, **result.metrics})
            if self._wandb is not None:
                self._wandb.log(self._validation_for_wandb(result))

    def close(self) -> None:
        """Flush everything."""
        self.log_validations()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _validation_for_wandb(self, result: ValidationResult) -> dict[str, Any]:
        import wandb

        named = {f"validation/{key.removeprefix('validation_')}": value for key, value in result.metrics.items()}
        path = grid_path(self._out, result.step)
        pictures = {"validation/pictures": wandb.Image(str(path))} if path.is_file() else {}
        return {"step": result.step, **named, **pictures}

    def _write(self, line: dict[str, Any]) -> None:
        # JSON has no infinity, and readers other than Python's refuse it.
        plain = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
        self._file.write(json.dumps({**plain, "time": round(time.time(), 3)}) + "\n")
        self._file.flush()


def log_last_validations(config: TrainConfig) -> None:
    """Log what ended after the workers had left: validations do not hold them up. For the driver."""
    logged = _logged_validations(config.out / METRICS_FILE)
    later = read_validations(config.out, known=logged.done)
    if any(result.failure is None or result.step not in logged.failed for result in later):
        Tracker(config, None).close()


def tracking_mode(tracking: TrackingConfig) -> TrackingMode:
    """What the config says, else what the environment says, else offline.

    Raises:
        ConfigError: The environment says something else.
    """
    if tracking.mode is not None:
        return tracking.mode
    said = os.environ.get("WANDB_MODE", "offline")
    for mode in get_args(TrackingMode):
        if said == mode:
            return mode  # type: ignore[no-any-return]
    raise ConfigError(f"WANDB_MODE is {said!r}; set it to one of {', '.join(get_args(TrackingMode))}")


def with_tracking_mode(config: TrainConfig) -> TrainConfig:
    """The config with its mode filled in: workers on other machines see another environment than who started them."""
    return config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"mode": tracking_mode(config.tracking)})}
    )


class _Logged(NamedTuple):
    """Steps whose validations have their line."""

    done: set[int]
    failed: set[int]


def _logged_validations(path: Path) -> _Logged:
    logged = _Logged(set(), set())
    if not path.is_file():
        return logged
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            # Most lines are not worth a parser's time.
            if '"event": "validation' in text and text.endswith("}\n"):
                line = json.loads(text)
                (logged.done if line["event"] == "validation" else logged.failed).add(int(line["step"]))
    return logged


def _is_torn(path: Path) -> bool:
    """Whether somebody was killed in the middle of the last line."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _start_wandb(config: TrainConfig) -> tuple[Any, str | None]:
    """A run, and what went wrong with it: figures that cannot be sent are no reason not to train."""
    mode = tracking_mode(config.tracking)
    if mode == "disabled":
        return None, None
    import wandb

    def start(mode: TrackingMode) -> Any:
        run = wandb.init(
            project=config.tracking.project,
            name=config.name,
            id=config.name,
            resume="allow",
            mode=mode,
            dir=str(config.out),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Validations end steps later than they began; over wandb's own count of steps they would be refused.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    if mode == "offline":
        return start("offline"), None
    try:
        return start("online"), None
    except wandb.errors.Error as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        folder = config.out / "wandb"
        problem = f"Weights & Biases cannot be reached ({reason}); `wandb sync` sends what is kept in {str(folder)!r}"
        log.warning(problem)
        return start("offline"), problem
