"""What an evaluation says: figures with n and an interval, thresholds, and where the pictures are."""

import operator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nigaoe.core.errors import DataError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A figure, how many samples it rests on and its 95 % bootstrap interval."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


class Cell(_Part):
    """One condition of an evaluation: a base with or without adapter, and a prompt; or a ceiling."""

    name: str
    """A slug, unique in the report, such as `anime-adapter`."""
    title: str
    """How a reader sees it."""
    base: str | None
    """None for ceilings, which no UNet drew."""
    adapter: str | None
    prompt: str | None
    n: int
    metrics: dict[str, Estimate]
    """By metric name: `attribute.skin`, `attribute.mean`, `judged_anime`, `clip_t`, `clip_i`, `fd_judge`, ..."""


class Threshold(_Part):
    """A demand on one figure."""

    cell: str
    metric: str
    at: Literal[">=", "<="]
    bound: float
    value: float
    passed: bool


class Report(_Part):
    """`report.json`."""

    version: Literal[1] = 1
    title: str
    notes: list[str] = []
    """Sentences that a reader needs to judge the figures: training length, extractor names, what was not done."""
    provenance: dict[str, str] = {}
    """Names and hashes of base, adapter, encoders, config; versions."""
    cells: list[Cell]
    thresholds: list[Threshold] = []

    def cell(self, name: str) -> Cell:
        """A cell by its name."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def misses(self) -> list[Threshold]:
        """Thresholds not reached."""
        return [t for t in self.thresholds if not t.passed]


def judge_threshold(cell: Cell, metric: str, at: Literal[">=", "<="], bound: float) -> Threshold:
    """Hold one figure of a cell against a bound."""
    value = cell.metrics[metric].value
    passed = (operator.ge if at == ">=" else operator.le)(value, bound)
    return Threshold(cell=cell.name, metric=metric, at=at, bound=bound, value=value, passed=passed)


def read_report(path: Path) -> Report:
    """Read a `report.json`.

    Raises:
        DataError: Missing or not a report.
    """
    if not path.is_file():
        raise DataError(f"report {str(path)!r} does not exist; run an evaluation first")
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{str(path)!r} is not a report ({first['loc']}: {first['msg']}); run the evaluation again"
        ) from None
