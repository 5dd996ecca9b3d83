"""Two finished evaluations, figure by figure: what both drew on the same samples is compared in pairs.

N samples. The first run is what the second is held against: every difference is the second less the first.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from nigaoe.core.errors import DataError
from nigaoe.core.reports import Cell, Estimate, Metric, Report, read_report
from nigaoe.eval.findings.samples_file import read_samples
from nigaoe.eval.metrics.comparing import compare
from nigaoe.eval.metrics.items import Items, in_order
from nigaoe.eval.running.tables import SampleTable

REPORT, SAMPLES = "report.json", "samples.csv"


@dataclass(frozen=True, eq=False)
class Run:
    """What a finished evaluation left."""

    where: str
    report: Report
    tables: dict[str, SampleTable]
    """By cell."""

    def cell(self, name: str) -> tuple[Cell, SampleTable]:
        """A cell and its samples.

        Raises:
            DataError: There is none.
        """
        for cell in self.report.cells:
            if cell.name == name and name in self.tables:
                return cell, self.tables[name]
        raise DataError(f"run {self.where!r} has no cell {name!r}; it has: {', '.join(self.names)}")

    def metric(self, name: str) -> Metric:
        """What a figure means.

        Raises:
            DataError: The report does not say.
        """
        if name not in self.report.metrics:
            raise DataError(f"the report of {self.where!r} does not say what {name!r} is; run the evaluation again")
        return self.report.metrics[name]

    @property
    def names(self) -> list[str]:
        """Of the cells that have samples, in the order of the report."""
        return [cell.name for cell in self.report.cells if cell.name in self.tables]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ComparedFigure(_Part):
    """One metric of a cell of the first run and of a cell of the second."""

    first_cell: str
    second_cell: str
    metric: str
    title: str
    is_share: bool
    """0 to 1, shown in percent."""
    first: float | None
    """Over the samples that both have a value for; None where the two cannot stand side by side."""
    second: float | None
    n: int
    """Samples that both have a value for."""
    left_out: int = 0
    """Samples that either has no value for."""
    difference: Estimate | None = None
    """None: there are no pairs to compare, see `note`."""
    p: float | None = None
    """Two-sided sign-flip permutation test over groups."""
    n_groups: int | None = None
    is_better: bool | None = None
    """Whether the second is. None: they cannot be told apart, or neither direction is better."""
    note: str = ""
    """Why there is no difference: a sentence whose subject is the title."""

    @property
    def verdict(self) -> str:
        """In words; empty where nothing was tested."""
        if self.difference is None:
            return ""
        if self.is_better is not None:
            return "B better" if self.is_better else "A better"
        if _holds_zero(self.difference):
            return "undecided"
        return "B higher" if self.difference.value > 0 else "B lower"


class RunsComparison(_Part):
    """What `nigaoe eval compare --json` writes."""

    first: str
    """Folder."""
    second: str
    differences: dict[str, tuple[str, str]]
    """What the runs do not have in common besides their figures; empty where one does not say."""
    figures: list[ComparedFigure]


def read_run(folder: Path) -> Run:
    """A finished run by its folder.

    Raises:
        DataError: It has no report or no samples, or they are damaged.
    """
    return Run(str(folder), read_report(folder / REPORT), read_samples(folder / SAMPLES))


def compare_runs(
    a: Run, b: Run, cells: Mapping[str, str] | None = None, metrics: Collection[str] = ()
) -> list[ComparedFigure]:
    """Compare every figure that both runs have of the same cells.

    Args:
        a: What is held against.
        b: What is looked at.
        cells: Cells of the first to cells of the second; None: those whose name both have.
        metrics: Which alone; all where none is named.

    Raises:
        DataError: Other samples, figures through other weights, or nothing in common.
    """
    pairs = _pairs(a, b, cells)
    named = [(*pair, name) for pair in pairs for name in _shared_metrics(a, b, pair, metrics)]
    if not named:
        wanted = f" among {', '.join(sorted(metrics))}" if metrics else ""
        raise DataError(f"{a.where!r} and {b.where!r} have no figure in common{wanted}; nothing can be compared")
    _require_same_weights(a, b, list(dict.fromkeys(name for *_, name in named)))
    for first, second in pairs:
        _require_same_samples(a, b, first, second)
    return [_compared(a, b, first, second, name) for first, second, name in named]


def run_differences(a: Run, b: Run, figures: Collection[ComparedFigure]) -> dict[str, tuple[str, str]]:
    """Where seeds, sampling, models, versions and the compared cells' own settings are not the same."""
    pairs = dict.fromkeys((figure.first_cell, figure.second_cell) for figure in figures)
    first = dict(a.report.provenance) | {k: v for x, y in pairs for k, v in _settings(a, x, x, y)}
    second = dict(b.report.provenance) | {k: v for x, y in pairs for k, v in _settings(b, y, x, y)}
    said = {name: (first.get(name, ""), second.get(name, "")) for name in [*first, *second]}
    return {name: (x, y) for name, (x, y) in said.items() if x != y}


def _pairs(a: Run, b: Run, cells: Mapping[str, str] | None) -> list[tuple[str, str]]:
    if cells is None:
        pairs = [(name, name) for name in a.names if name in b.names]
        if not pairs:
            raise DataError(
                f"{a.where!r} and {b.where!r} have no cell in common ({', '.join(a.names)}; {', '.join(b.names)}); "
                "name two by --cell a=b"
            )
        return pairs
    for first, second in cells.items():
        a.cell(first), b.cell(second)
    return list(cells.items())


def _shared_metrics(a: Run, b: Run, pair: tuple[str, str], metrics: Collection[str]) -> list[str]:
    first, second = a.cell(pair[0])[0], b.cell(pair[1])[0]
    return [name for name in first.metrics if name in second.metrics and (not metrics or name in metrics)]


def _require_same_weights(a: Run, b: Run, names: list[str]) -> None:
    apart = [name for name in names if a.metric(name).setting != b.metric(name).setting]
    if apart:
        first, more = apart[0], f" (and so do {', '.join(apart[1:])})" if apart[1:] else ""
        raise DataError(
            f"{first!r} looks through {a.metric(first).setting or 'nothing'!r} in {a.where!r} and through "
            f"{b.metric(first).setting or 'nothing'!r} in {b.where!r}{more}; score both runs through the same weights, "
            "or choose other figures by --metric"
        )


def _require_same_samples(a: Run, b: Run, first: str, second: str) -> None:
    ours, theirs = a.cell(first)[1], b.cell(second)[1]
    owners = dict(zip(ours.ids, ours.groups, strict=True))
    others = dict(zip(theirs.ids, theirs.groups, strict=True))
    where = f"cell {first!r} of {a.where!r} and cell {second!r} of {b.where!r}"
    if apart := sorted(set(owners) ^ set(others)):
        raise DataError(
            f"{where} are of other samples ({len(owners)} and {len(others)}; only one has {apart[0]!r}); "
            "run both with the same protocol and seed"
        )
    for sample, owner in owners.items():
        if others[sample] != owner:
            raise DataError(
                f"{where} are of other samples ({sample!r} is of {owner!r} in one and of {others[sample]!r} in the "
                "other); run both with the same protocol and seed"
            )


def _compared(a: Run, b: Run, first: str, second: str, name: str) -> ComparedFigure:
    metric = a.metric(name)
    common = {
        "first_cell": first,
        "second_cell": second,
        "metric": name,
        "title": metric.title,
        "is_share": metric.is_share,
    }
    if not (metric.is_per_sample and b.metric(name).is_per_sample):
        return ComparedFigure.model_validate(common | _side_by_side(a, b, first, second, name))
    ours, theirs = a.cell(first)[1].items(name, metric), b.cell(second)[1].items(name, b.metric(name))
    here, there = _paired(ours, theirs)
    if not len(here):
        note = "has no sample with a value in both: not compared"
        return ComparedFigure.model_validate(common | {"first": None, "second": None, "n": 0, "note": note})
    found = compare(ours, theirs)
    return ComparedFigure(
        **common,
        first=float(here.mean()),
        second=float(there.mean()),
        n=len(here),
        left_out=found.left_out,
        difference=found.difference,
        p=found.p,
        n_groups=found.n_groups,
        is_better=found.second_is_better if metric.higher_is_better is not None else None,
    )


def _side_by_side(a: Run, b: Run, first: str, second: str, name: str) -> dict[str, object]:
    x, y = a.cell(first)[0].metrics[name], b.cell(second)[0].metrics[name]
    if x.n != y.n:
        note = f"rests on {x.n} samples in A and on {y.n} in B, and changes with their number: not compared"
        return {"first": None, "second": None, "n": 0, "note": note}
    return {
        "first": x.value,
        "second": y.value,
        "n": x.n,
        "note": "is of all samples at once: there are no pairs to test",
    }


def _paired(ours: Items, theirs: Items) -> tuple[np.ndarray, np.ndarray]:
    """Values of both, float64 [N], of the samples that both have one for."""
    shared = sorted(set(ours.ids) & set(theirs.ids))
    here, there = in_order(ours, shared), in_order(theirs, shared)
    kept = ~np.isnan(here) & ~np.isnan(there)
    return here[kept], there[kept]


def _settings(run: Run, name: str, first: str, second: str) -> Iterator[tuple[str, str]]:
    cell = run.cell(name)[0]
    called = first if first == second else f"{first} / {second}"
    for key in ("base", "adapter", "scale", "prompt"):
        value = getattr(cell, key)
        yield f"{key} of {called}", "none" if value is None else f"{value}"


def _holds_zero(difference: Estimate) -> bool:
    assert difference.low is not None
    assert difference.high is not None
    return difference.low <= 0 <= difference.high
