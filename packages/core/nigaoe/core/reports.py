"""What an evaluation says: figures with n and an interval, what they were held against, and whether to believe them."""

import operator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nigaoe.core.errors import DataError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A figure, how many samples it rests on and its 95 % interval."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


class Metric(_Part):
    """What the figures of a name mean."""

    title: str
    """For people: `CLIP-I`."""
    setting: str = ""
    """Name and hash of the network that it looks through; empty where it looks through none."""
    higher_is_better: bool | None = None
    """None: neither, such as the rate at which chance would agree."""
    is_per_sample: bool = True
    """Whether every sample has a value, so that systems can be compared pair by pair."""
    is_share: bool = False
    """0 to 1, shown in percent."""


class Control(_Part):
    """What mixing up the pairs does to a metric: one that does not fall is not to be believed."""

    matched: float
    shuffled: float
    auc: float
    """Of right pairs against wrong ones."""
    gap: Estimate
    """By how much right pairs are better."""
    n_wrong: int
    """Wrong pairs looked at."""
    is_broken: bool


class SizePoint(_Part):
    """A Frechet distance at a smaller number of samples."""

    n: int
    distance: float


class Cell(_Part):
    """One condition: a base with or without adapter at a scale, and a prompt; a target; or a ceiling."""

    name: str
    """A slug, unique in the report, such as `anime-adapter`."""
    title: str
    """How a reader sees it."""
    base: str | None
    """None for what no base of this run drew: ceilings, servers and folders."""
    target: str | None = None
    """The folder or server that its pictures come from."""
    adapter: str | None
    scale: float | None = None
    """Of the adapter."""
    prompt: str | None
    n: int
    """Samples asked for."""
    failed: dict[str, str] = {}
    """Samples without a figure, and why."""
    cut_prompts: int = 0
    """Samples whose prompt is longer than what CLIP reads of it."""
    metrics: dict[str, Estimate]
    """By metric name: `attribute.skin`, `attribute.mean`, `judged_anime`, `clip_t`, `clip_i`, `fd_judge`, ..."""
    controls: dict[str, Control] = {}
    """By metric name."""
    size_curves: dict[str, list[SizePoint]] = {}
    """By the name of a Frechet distance."""


class Check(_Part):
    """Something that must hold before a figure is believed."""

    name: str
    passed: bool | None
    """None: it could not be looked at."""
    detail: str
    """What was found, in a sentence."""
    adapter: str | None = None
    """The one that it is about, by its name in the report; None: the whole run."""


class Comparison(_Part):
    """A cell less the baseline, on the same samples."""

    cell: str
    baseline: str
    metric: str
    difference: Estimate
    p: float
    """Two-sided sign-flip permutation test over references."""
    n_groups: int
    is_better: bool | None
    """None: the interval holds 0, they cannot be told apart."""


class Sweep(_Part):
    """Cells that differ in the adapter's scale alone, in its order."""

    title: str
    cells: list[str]


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

    version: Literal[2] = 2
    title: str
    notes: list[str] = []
    """Sentences that a reader needs to judge the figures: training length, extractor names, what was not done."""
    flags: list[str] = []
    """Sentences about what makes a figure of this very run doubtful; none is the good case."""
    provenance: dict[str, str] = {}
    """Names and hashes of base, adapter, encoders, config; versions."""
    adapters: dict[str, str] = {}
    """SHA-256 of each adapter's file by its name in the report."""
    metrics: dict[str, Metric] = {}
    """What the names of figures mean."""
    checks: list[Check] = []
    cells: list[Cell]
    comparisons: list[Comparison] = []
    sweeps: list[Sweep] = []
    thresholds: list[Threshold] = []

    def cell(self, name: str) -> Cell:
        """A cell by its name.

        Raises:
            DataError: There is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise DataError(f"the report has no cell {name!r}; it has: {', '.join(cell.name for cell in self.cells)}")

    @property
    def misses(self) -> list[Threshold]:
        """Thresholds not reached."""
        return [t for t in self.thresholds if not t.passed]


def judge_threshold(cell: Cell, metric: str, at: Literal[">=", "<="], bound: float) -> Threshold:
    """Hold one figure of a cell against a bound.

    Raises:
        DataError: The cell lacks it.
    """
    if metric not in cell.metrics:
        raise DataError(f"cell {cell.name!r} has no figure {metric!r}; it has: {', '.join(cell.metrics)}")
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
