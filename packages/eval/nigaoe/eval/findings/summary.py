"""From merged cells to the report: figures with intervals, controls, comparisons, and what makes any of it doubtful."""

from collections.abc import Mapping, Sequence

import numpy as np

from nigaoe.core.reports import (
    Cell,
    Check,
    Comparison,
    Control,
    Estimate,
    Metric,
    Report,
    Sweep,
    judge_threshold,
)
from nigaoe.core.toy.people import SCENE
from nigaoe.eval.bootstrap import RESAMPLES, GroupBootstrap
from nigaoe.eval.config import FolderTarget, ServerTarget, ToyProtocolConfig
from nigaoe.eval.findings.distances import distances, halves
from nigaoe.eval.findings.faces_told import face_columns
from nigaoe.eval.findings.figures import describe
from nigaoe.eval.findings.flags import flags_of
from nigaoe.eval.metrics.comparing import compare
from nigaoe.eval.metrics.pairing import pair_control
from nigaoe.eval.protocols.protocol import DRAWN, CellPlan
from nigaoe.eval.protocols.targets import scale_series
from nigaoe.eval.running.merging import MergedCell
from nigaoe.eval.running.plan import Plan
from nigaoe.eval.running.tables import SampleTable
from nigaoe.eval.running.worker import Findings
from nigaoe.eval.scoring.controls import agreement_ratio, chance_agreement, one_hot_pair

Merged = Mapping[str, MergedCell]
"""Cells by name."""

_CODES = ("background_seen", "background_reference")
"""Columns that hold an answer's index, whose mean says nothing."""


def tables_of(plan: Plan, merged: Merged) -> dict[str, SampleTable]:
    """Figures per sample of every cell that is reported, with those that need all samples of a cell."""
    return {cell.name: face_columns(merged[cell.name].table) for cell in plan.cells if is_reported(cell)}


def is_reported(cell: CellPlan) -> bool:
    """Whether its samples have figures of their own."""
    return cell.source not in ("yardstick", "references")


def make_report(
    plan: Plan, findings: Findings, held_out: Sequence[Check], merged: Merged, tables: Mapping[str, SampleTable]
) -> Report:
    """All figures of a finished evaluation."""
    metrics = describe(findings)
    cells = [_cell(plan, cell, merged, tables[cell.name], metrics) for cell in plan.cells if is_reported(cell)]
    cells += [_real(cell, merged[cell.name], metrics) for cell in plan.cells if _is_yardstick(plan, cell)]
    by_name = {cell.name: cell for cell in cells}
    used = {name for cell in cells for name in cell.metrics}
    checks = [*findings.checks, *held_out]
    return Report(
        title=plan.config.title,
        notes=[*plan.config.notes, *_notes(plan)],
        flags=flags_of(plan, checks, cells, merged),
        provenance=plan.provenance,
        adapters=plan.sha256,
        metrics={name: metric for name, metric in metrics.items() if name in used},
        checks=checks,
        cells=cells,
        comparisons=_comparisons(plan, tables, metrics),
        sweeps=[Sweep(title=plan.cell(name).title, cells=names) for name, names in scale_series(plan.cells).items()],
        thresholds=[judge_threshold(by_name[t.cell], t.metric, t.at, t.bound) for t in plan.config.thresholds],
    )


def _cell(plan: Plan, cell: CellPlan, merged: Merged, table: SampleTable, metrics: Mapping[str, Metric]) -> Cell:
    found = _estimates(table, metrics)
    curves = {}
    if cell.yardstick is not None:
        far = distances(merged[cell.yardstick].sides, merged[cell.name].sides)
        found |= far.figures
        curves = far.curves
    cut = table.columns.get("clip_t_cut", np.zeros(0))
    return Cell(
        name=cell.name,
        title=cell.title,
        base=cell.base if cell.source == "generation" else None,
        target=cell.target,
        adapter=cell.adapter,
        scale=cell.scale,
        prompt=cell.prompt,
        n=cell.n,
        failed=table.failed,
        cut_prompts=int(np.nansum(cut)),
        metrics={name: found[name] for name in metrics if name in found},
        controls=_controls(table, metrics),
        size_curves=curves,
    )


def _is_yardstick(plan: Plan, cell: CellPlan) -> bool:
    return any(other.yardstick == cell.name for other in plan.cells)


def _real(cell: CellPlan, merged: MergedCell, metrics: Mapping[str, Metric]) -> Cell:
    """Real against real: one half of a yardstick against the other."""
    pairs = {name: halves(side) for name, side in merged.sides.items()}
    far = distances({n: pair[0] for n, pair in pairs.items()}, {n: pair[1] for n, pair in pairs.items()})
    return Cell(
        name=f"{cell.name}-halves",
        title=f"Real against real: {cell.title.lower()}, one half against the other",
        base=None,
        adapter=None,
        prompt=None,
        n=cell.n // 2,
        metrics={name: far.figures[name] for name in metrics if name in far.figures},
        size_curves=far.curves,
    )


def _estimates(table: SampleTable, metrics: Mapping[str, Metric]) -> dict[str, Estimate]:
    found = {}
    for name in table.names:
        kept = ~np.isnan(table.columns[name])
        if name in metrics and kept.any():
            groups = [group for group, is_kept in zip(table.groups, kept, strict=True) if is_kept]
            found[name] = GroupBootstrap(groups).estimate(table.columns[name][kept][:, None])
    if all(code in table.columns for code in _CODES):
        seen, reference = (table.columns[code] for code in _CODES)
        kept = ~np.isnan(seen)
        pair = one_hot_pair(seen[kept], reference[kept], len(SCENE["background"]))
        bootstrap = GroupBootstrap([group for group, is_kept in zip(table.groups, kept, strict=True) if is_kept])
        found["background_chance"] = bootstrap.estimate(pair, chance_agreement)
        found["background_copy_ratio"] = bootstrap.estimate(pair, agreement_ratio)
    return found


def _controls(table: SampleTable, metrics: Mapping[str, Metric]) -> dict[str, Control]:
    found = {}
    for name in [name for name in table.names if name in metrics]:
        wrong = table.wrong(name)
        if wrong.size == 0 or np.isnan(wrong).all():
            continue
        better = metrics[name].higher_is_better is not False
        control = pair_control(name, table.columns[name], wrong, table.groups, better)
        if control.gap is not None:
            found[name] = Control(
                matched=control.matched,
                shuffled=control.shuffled,
                auc=control.auc,
                gap=control.gap,
                n_wrong=control.n_shuffled,
                is_broken=control.is_broken,
            )
    return found


def baselines(cells: Sequence[CellPlan]) -> list[tuple[CellPlan, CellPlan]]:
    """Which cells are compared with which: no adapter, the first adapter, the first base, what a target is like."""
    usual = [cell for cell in cells if cell.source in DRAWN and "@" not in cell.name]
    plain = [cell for cell in usual if not cell.variant]
    pairs = []
    for cell in plain:
        if cell.adapter is None:
            continue
        same_base = [other for other in plain if other.base == cell.base]
        same_adapter = [other for other in plain if other.adapter == cell.adapter]
        pairs += [(cell, other) for other in same_base if other.adapter is None]
        pairs += [(cell, other) for other in same_base if other.adapter is not None][:1]
        pairs += [(cell, same_adapter[0])]
    return [(cell, other) for cell, other in pairs if cell.name != other.name]


def _comparisons(plan: Plan, tables: Mapping[str, SampleTable], metrics: Mapping[str, Metric]) -> list[Comparison]:
    likes: dict[str, FolderTarget | ServerTarget] = {**plan.config.folders, **plan.config.servers}
    pairs = [(cell.name, other.name) for cell, other in baselines(plan.cells)]
    pairs += [(name, target.like) for name, target in likes.items() if target.like is not None]
    found = []
    for cell, baseline in dict.fromkeys(pairs):
        one, other = tables[cell], tables[baseline]
        for name in [name for name in metrics if name in one.columns and name in other.columns]:
            metric = metrics[name]
            if metric.higher_is_better is None or not metric.is_per_sample:
                continue
            if np.isnan(one.columns[name] + other.columns[name]).all():
                continue
            seen = compare(other.items(name, metric), one.items(name, metric))
            found.append(
                Comparison(
                    cell=cell,
                    baseline=baseline,
                    metric=name,
                    difference=seen.difference,
                    p=seen.p,
                    n_groups=seen.n_groups,
                    is_better=seen.second_is_better,
                )
            )
    return found


def _notes(plan: Plan) -> list[str]:
    setting, cells = plan.config.sampling, plan.cells
    yardsticks = [cell for cell in cells if _is_yardstick(plan, cell)]
    is_toy = isinstance(plan.config.protocol, ToyProtocolConfig)
    unit = "identities" if is_toy else "references"
    drawn = (
        f"; {setting.steps} DDIM steps, guidance {setting.guidance_scale:g}, adapter scale {setting.adapter_scale:g}, "
        f"{setting.precision}, seed {plan.config.seed}"
    )
    told = [
        f"Up to {max(cell.n for cell in cells)} pictures per cell"
        f"{drawn if any(cell.source == 'generation' for cell in cells) else ''}.",
        f"Intervals are 95 % percentile bootstrap intervals over {unit} ({RESAMPLES} resamples, fixed seed); those of "
        "KD, KID and CMMD are jackknife intervals over pictures.",
        f"FD and KD are distances of distributions on the named network's features, to {yardsticks[0].n} real pictures "
        "a cell. An FD falls with the number of pictures: compare it only within one report and at one n, or take the "
        "one that is extrapolated to endless samples. Only on the features of FID's own Inception is it called FID. "
        "Fewer pictures than features leave covariances without full rank; the form used here is exact then, too.",
        "A control is the same figure against somebody else's reference, or other words, of the same run.",
    ]
    if is_toy:
        told.append("Every prompt of a toy cell is the same, so CLIP-T has no wrong words to be held against there.")
    return told
