"""What an adapter's report must say before the adapter may be served. No torch here."""

import operator
from typing import Literal

from pydantic import Field

from nigaoe.core.config import Config
from nigaoe.core.reports import Cell, Report

End = Literal["value", "low", "high"]


class GateThreshold(Config):
    """A demand on one figure."""

    cell: str
    metric: str
    at: Literal[">=", "<="]
    bound: float
    counts: End | None = None
    """The figure itself or an end of its 95 % interval; the end that is harder to satisfy when absent."""
    min_n: int = Field(default=1, ge=1)
    """Samples that the figure must rest on."""

    @property
    def end(self) -> End:
        """As `counts`, which may be absent."""
        return self.counts or ("low" if self.at == ">=" else "high")


class Requirements(Config):
    """What must hold besides the figures."""

    checks: bool = True
    """Every check of the report was looked at and passed, and there is at least one."""
    controls: list[str] = []
    """Metrics that must fall when pairs are mixed up, in every cell of the gate that has them."""
    no_flags: bool = True
    """The report has no sentence about what makes its figures doubtful."""


class GateConfig(Config):
    """`nigaoe promote ADAPTER REPORT GATE`."""

    thresholds: list[GateThreshold] = Field(min_length=1)
    require: Requirements = Requirements()


def misses(gate: GateConfig, report: Report, names: set[str]) -> list[str]:
    """All that stands between an adapter and its promotion, a clause each.

    Args:
        gate: What is demanded.
        report: What was found.
        names: What the report calls the adapter.
    """
    cells = {cell.name: cell for cell in report.cells}
    said = [_cell_miss(name, cells, names) for name in dict.fromkeys(t.cell for t in gate.thresholds)]
    gated = [cells[name] for name in dict.fromkeys(t.cell for t in gate.thresholds) if name in cells]
    if gated and not any(said) and not any(cell.adapter in names for cell in gated):
        said.append("no cell of the gate was drawn with this adapter")
    said += [
        _threshold_miss(threshold, cells[threshold.cell]) for threshold in gate.thresholds if threshold.cell in cells
    ]
    if gate.require.checks:
        said += _check_misses(report, names)
    said += [miss for metric in gate.require.controls for miss in _control_misses(metric, gated)]
    if gate.require.no_flags:
        said += [f"the report has a flag: {flag.rstrip('.')}" for flag in report.flags]
    return [miss for miss in said if miss is not None]


def _cell_miss(name: str, cells: dict[str, Cell], names: set[str]) -> str | None:
    if name not in cells:
        return f"the report has no cell {name!r} (it has {', '.join(cells)})"
    adapter = cells[name].adapter
    if adapter is not None and adapter not in names:
        return f"cell {name!r} is of adapter {adapter!r}, which is another"
    return None


def _threshold_miss(threshold: GateThreshold, cell: Cell) -> str | None:
    where, end = f"{threshold.metric} of {cell.name}", threshold.end
    estimate = cell.metrics.get(threshold.metric)
    if estimate is None:
        return f"{cell.name} has no figure {threshold.metric!r} (it has {', '.join(cell.metrics)})"
    if estimate.n < threshold.min_n:
        return f"{where} rests on {estimate.n} samples, needed {threshold.min_n}"
    found = {"value": estimate.value, "low": estimate.low, "high": estimate.high}[end]
    if found is None:
        return f"{where} has no interval, so its {end} end cannot be judged (say `counts: value`)"
    # What is no number reaches nothing.
    if (operator.ge if threshold.at == ">=" else operator.le)(found, threshold.bound):
        return None
    called = "" if end == "value" else f"at the {end} end of its interval "
    return f"{where} is {called}{found:.4g}, needed {threshold.at} {threshold.bound:g}"


def _check_misses(report: Report, names: set[str]) -> list[str]:
    own = [check for check in report.checks if check.adapter is None or check.adapter in names]
    if not own:
        return ["the report has no checks"]
    return [
        f"check {check.name!r} {'could not be looked at' if check.passed is None else 'failed'} "
        f"({check.detail.rstrip('.')})"
        for check in own
        if not check.passed
    ]


def _control_misses(metric: str, gated: list[Cell]) -> list[str]:
    having = [cell for cell in gated if metric in cell.metrics]
    if not having:
        return [f"no cell of the gate has {metric!r}, whose control is required"]
    said = []
    for cell in having:
        control = cell.controls.get(metric)
        if control is None:
            said.append(f"{metric} of {cell.name} has no control with mixed-up pairs")
        elif control.is_broken:
            said.append(
                f"the control of {metric} of {cell.name} is broken (matched {control.matched:.4g}, shuffled "
                f"{control.shuffled:.4g})"
            )
    return said
