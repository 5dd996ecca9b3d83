"""From shards to figures: merged once, in the order of the shards, so that it does not matter who finished first."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nigaoe.core.reports import Cell, Estimate, Report, judge_threshold
from nigaoe.core.toy.people import SCENE
from nigaoe.eval.bootstrap import RESAMPLES, GroupBootstrap
from nigaoe.eval.config import ToyProtocolConfig
from nigaoe.eval.metrics.frechet import frechet_distance
from nigaoe.eval.metrics.moments import Moments, merged
from nigaoe.eval.plan import Plan
from nigaoe.eval.protocols.protocol import CellPlan
from nigaoe.eval.scoring.controls import agreement_ratio, chance_agreement, one_hot_pair
from nigaoe.eval.shards import ShardResult

Results = Mapping[str, ShardResult]
"""Finished shards by id."""

_CODES = ("background_seen", "background_reference")
"""Columns that hold an answer's index, whose mean says nothing."""


def make_report(plan: Plan, results: Results) -> Report:
    """All figures of a finished evaluation."""
    cells = [_cell(plan, cell, results) for cell in plan.cells if cell.source != "yardstick"]
    by_name = {cell.name: cell for cell in cells}
    thresholds = [judge_threshold(by_name[t.cell], t.metric, t.at, t.bound) for t in plan.config.thresholds]
    return Report(
        title=plan.config.title,
        notes=[*plan.config.notes, *_notes(plan)],
        provenance=plan.provenance,
        cells=cells,
        thresholds=thresholds,
    )


def sample_table(plan: Plan, results: Results) -> list[dict[str, Any]]:
    """One row per cell and sample."""
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        for task in plan.tasks_of(cell) if cell.source != "yardstick" else []:
            result = results[task.id]
            for i, group in enumerate(result.groups):
                figures = {name: values[i] for name, values in result.columns.items()}
                rows.append({"cell": cell.name, "sample": task.start + i, "group": group, **figures})
    return rows


def _cell(plan: Plan, cell: CellPlan, results: Results) -> Cell:
    shards = [results[task.id] for task in plan.tasks_of(cell)]
    columns = {name: np.array([v for shard in shards for v in shard.columns[name]]) for name in shards[0].columns}
    groups = [group for shard in shards for group in shard.groups]
    assert len(groups) == cell.n, f"{cell.name} has {len(groups)} samples, not {cell.n}"
    metrics = _estimates(columns, groups)
    if cell.yardstick is not None:
        extractor = "judge" if isinstance(plan.config.protocol, ToyProtocolConfig) else "clip"
        distance = frechet_distance(merged(s.moments for s in shards), _moments_of(plan, cell.yardstick, results))
        metrics[f"fd_{extractor}"] = Estimate(value=distance, n=cell.n)
    return Cell(
        name=cell.name,
        title=cell.title,
        base=cell.base if cell.source == "generation" else None,
        adapter=cell.adapter,
        prompt=cell.prompt,
        n=cell.n,
        metrics={name: metrics[name] for name in plan.protocol.metrics(cell)},
    )


def _estimates(columns: dict[str, np.ndarray], groups: Sequence[str]) -> dict[str, Estimate]:
    bootstrap = GroupBootstrap(groups)
    metrics = {name: bootstrap.estimate(values[:, None]) for name, values in columns.items() if name not in _CODES}
    if all(code in columns for code in _CODES):
        seen, reference = (columns[code] for code in _CODES)
        pair = one_hot_pair(seen, reference, len(SCENE["background"]))
        metrics["background_chance"] = bootstrap.estimate(pair, chance_agreement)
        metrics["background_copy_ratio"] = bootstrap.estimate(pair, agreement_ratio)
    return metrics


def _moments_of(plan: Plan, name: str, results: Results) -> Moments:
    cell = next(cell for cell in plan.cells if cell.name == name)
    return merged(results[task.id].moments for task in plan.tasks_of(cell))


def _notes(plan: Plan) -> list[str]:
    setting, cells = plan.config.sampling, plan.cells
    drawn = next(cell for cell in cells if cell.source == "generation")
    yardstick = next(cell for cell in cells if cell.source == "yardstick")
    is_toy = isinstance(plan.config.protocol, ToyProtocolConfig)
    extractor = "the judge's 192 features" if is_toy else "CLIP image embeddings"
    unit = "identities" if is_toy else "references"
    return [
        f"{drawn.n} pictures per cell; {setting.steps} DDIM steps, guidance {setting.guidance_scale:g}, adapter scale "
        f"{setting.adapter_scale:g}, {setting.precision}, seed {plan.config.seed}.",
        f"Intervals are 95 % percentile bootstrap intervals over {unit} ({RESAMPLES} resamples, fixed seed).",
        f"FD is a Frechet distance on {extractor} to {yardstick.n} pictures, not the FID of the literature. It has no "
        "interval, and it falls with the number of pictures: compare it only within one report. Fewer pictures "
        "than features leave covariances without full rank; the nuclear-norm form used here is exact then, too.",
        "clip_i_shuffled is clip_i against the next sample's reference: what the score gives for the wrong person.",
    ]
