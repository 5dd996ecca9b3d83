"""What a run's folder says of it: its figures, its starts and its validations.

`metrics.jsonl` is only ever appended to. Where a run went on from a checkpoint, the lines of steps that it took again
stand before the start that they were lost to, and do not count.
"""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from nigaoe.core.atomic import write_whole

METRICS_FILE = "metrics.jsonl"
VALIDATION_FOLDER = "validation"


class Start(NamedTuple):
    """A start or a restart."""

    step: int
    """Steps done before."""
    world_size: int
    time: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class RunHistory:
    """A run as it stands, in order of its steps."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    """As `StepFigures` writes them."""
    starts: list[Start] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """That workers trained, steps lost included."""

    @property
    def step(self) -> int:
        """Steps done."""
        return max([line["step"] for line in self.lines[-1:]] + [start.step for start in self.starts[-1:]], default=0)

    @property
    def restarts(self) -> list[int]:
        """Steps that the run went on from."""
        return [start.step for start in self.starts[1:]]


def read_history(out: Path) -> RunHistory:
    """Read the figures in a run's folder; nothing where there are none yet."""
    history, latest, seconds = RunHistory(), 0.0, 0.0
    for line in _lines(out / METRICS_FILE):
        event, step, time = line.get("event"), int(line["step"]), float(line.get("time", 0.0))
        if event == "start":
            _forget(history.lines, step + 1)
            history.starts.append(Start(step, int(line["world_size"]), time))
        elif event == "note":
            history.notes.append(str(line["text"]))
        elif event is None:
            seconds += max(0.0, time - latest)
            _forget(history.lines, step)
            history.lines.append(line)
        if event in ("start", None):
            latest = time
    return RunHistory(history.lines, history.starts, history.notes, seconds)


def coarser(lines: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many lines: of neighbours the means, at the step of the last."""
    count = math.ceil(len(lines) / most)
    return lines if count <= 1 else [_mean(lines[start : start + count]) for start in range(0, len(lines), count)]


def _mean(lines: list[dict[str, Any]]) -> dict[str, Any]:
    values = {key: [line[key] for line in lines if line.get(key) is not None] for key in lines[-1]}
    means = {key: sum(known) / len(known) if known else None for key, known in values.items()}
    return means | {"step": lines[-1]["step"]}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                # A worker was killed while it wrote this one.
                continue
            if isinstance(line, dict) and "step" in line:
                yield line


def _forget(lines: list[dict[str, Any]], step: int) -> None:
    """Drop the lines of this step and later ones."""
    while lines and lines[-1]["step"] >= step:
        lines.pop()


class ValidationResult(BaseModel):
    """`validation/step-*.json`, with the pictures beside it under the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    metrics: dict[str, float] = {}
    """`validation_loss`, `loss_t000_250` and so on, `clip_i`, `clip_i_shuffled`, `identity`, `identity_shuffled`,
    `faces_found`."""
    failure: str | None = None
    """Why there are no metrics, in a sentence."""
    loss_rows: int = 0
    pictures: int = 0
    image_encoder: str = ""
    """That CLIP-I is of."""
    face_encoder: str | None = None
    """That identities are of."""
    seconds: float = 0.0


def grid_path(out: Path, step: int) -> Path:
    """Where the pictures of a validation are."""
    return out / VALIDATION_FOLDER / f"step-{step:08d}.png"


def write_validation(out: Path, result: ValidationResult) -> None:
    """Write a result, after its pictures: who finds it finds them."""
    path = grid_path(out, result.step).with_suffix(".json")
    write_whole(path, f"{result.model_dump_json(indent=2)}\n".encode())


def read_validations(out: Path, known: Collection[int] = ()) -> list[ValidationResult]:
    """Validations that ended, in order of their steps, but for those of `known` steps."""
    results = []
    for path in sorted((out / VALIDATION_FOLDER).glob("step-*.json")):
        if int(path.stem.removeprefix("step-")) in known:
            continue
        try:
            results.append(ValidationResult.model_validate_json(path.read_text(encoding="utf-8")))
        except ValidationError:
            # Of another version; the figures of a run do not depend on it.
            continue
    return results
