"""One evaluation from config to report: plan, check, compute what is missing, merge, write."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from tqdm import tqdm

from nigaoe.core.atomic import write_whole
from nigaoe.core.errors import ConfigError
from nigaoe.core.reports import Check, Report
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.figures import describe
from nigaoe.eval.gallery import Gallery
from nigaoe.eval.held_out import require_held_out
from nigaoe.eval.known import KnownReferences
from nigaoe.eval.merging import merge_cell, read_shard
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.page import write_page
from nigaoe.eval.plan import Plan, make_plan
from nigaoe.eval.pool import Hands, RayHands
from nigaoe.eval.protocols.protocol import DRAWN, REAL
from nigaoe.eval.samples_file import write_samples
from nigaoe.eval.shards import ShardResult, ShardStore, ShardTask
from nigaoe.eval.summary import is_reported, make_report, tables_of
from nigaoe.eval.tracking import log_to_wandb
from nigaoe.eval.worker import Findings

log = logging.getLogger(__name__)


def run_evaluation(config: EvalConfig, hands_of: Callable[[Plan], Hands] | None = None) -> Report:
    """Evaluate, write everything under `config.out`, and return the report.

    Shards that an earlier, interrupted run finished are not computed again.

    Raises:
        NigaoeError: An input that the user can mend.
    """
    plan = make_plan(config)
    store = ShardStore(config.out / "shards", plan.cache)
    with ExitStack() as stack:
        hands = stack.enter_context(RayHands(plan)) if hands_of is None else hands_of(plan)
        findings = _findings(plan, hands)
        _require_thresholds(config, findings)
        write_whole(config.out / "manifest.json", _manifest(plan, findings))
        is_real = [task.cell.source in REAL for task in plan.tasks]
        real = [task for task, is_one in zip(plan.tasks, is_real, strict=True) if is_one]
        drawn = [task for task, is_one in zip(plan.tasks, is_real, strict=True) if not is_one]
        known = KnownReferences(plan, store)
        _compute(plan, store, hands, real, "real pictures")
        held_out = _held_out(plan, known)
        _compute(plan, store, hands, drawn, "evaluate", known)
    merged = {cell.name: merge_cell(store, plan.tasks_of(cell)) for cell in plan.cells}
    tables = tables_of(plan, merged)
    report = make_report(plan, findings, held_out, merged, tables)
    gallery = _gallery(plan, store)
    write_samples(config.out / "samples.csv", tables)
    protocol = plan.protocol
    shown = next(cell for cell in plan.cells if cell.source in DRAWN)
    rows = [protocol.sample_id(shown, place) for place in protocol.grid_rows(config.pictures)]
    columns = protocol.grid_columns()
    write_page(config.out, report, columns, protocol.grid_caption(), protocol.headlines(), rows, tables, gallery)
    # Last, for whoever finds a report may trust that the rest is there.
    write_whole(config.out / "report.json", f"{report.model_dump_json(indent=2)}\n".encode())
    if config.wandb_project is not None:
        log_to_wandb(config.wandb_project, report, tables, gallery, rows)
    return report


def _findings(plan: Plan, hands: Hands) -> Findings:
    """What the checks find, remembered for as long as networks, code and references are the same."""
    path = plan.config.out / "checks.json"
    try:
        said = json.loads(path.read_bytes())
        if said["fingerprint"] == plan.fingerprint:
            checks = [Check.model_validate(check) for check in said["checks"]]
            return Findings(checks, said["settings"], [FeatureSpace(**space) for space in said["spaces"]])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    findings = hands.check()
    text = {
        "fingerprint": plan.fingerprint,
        "checks": [check.model_dump() for check in findings.checks],
        "settings": findings.settings,
        "spaces": [asdict(space) for space in findings.spaces],
    }
    write_whole(path, f"{json.dumps(text, indent=2)}\n".encode())
    return findings


def _compute(
    plan: Plan,
    store: ShardStore,
    hands: Hands,
    tasks: Sequence[ShardTask],
    title: str,
    known: KnownReferences | None = None,
) -> None:
    """Make what is missing of some shards."""
    missing = [task for task in tasks if not store.has(task)]
    total, left = sum(task.size for task in tasks), sum(task.size for task in missing)
    log.info("planned shards", extra={"shards": len(tasks), "missing": len(missing)})
    with tqdm(total=total, initial=total - left, desc=title, unit="image") as bar:

        def keep(task: ShardTask, result: ShardResult) -> None:
            for sample, png in result.images.items():
                write_whole(plan.config.out / "images" / task.cell.name / f"{sample}.png", png)
            store.write(task, result)
            bar.update(task.size)

        if missing:
            hands.evaluate(missing, known.of if known is not None else lambda task: None, keep)


def _held_out(plan: Plan, known: KnownReferences) -> list[Check]:
    """That no reference was trained on, before any picture is drawn from one.

    Raises:
        DataError: One was.
    """
    checks = []
    for name, path in plan.adapters.items():
        found = require_held_out(name, path, known.contents())
        title = f"references are held out from adapter {name!r}"
        passed = True if found.is_known else None
        checks.append(Check(name=title, passed=passed, detail=found.sentence, adapter=name))
    return checks


def _gallery(plan: Plan, store: ShardStore) -> Gallery:
    """Small pictures of every cell, and of the references by the samples that are drawn from them."""
    pictures: dict[str, dict[str, bytes]] = {}
    for task in plan.tasks:
        if task.thumbnails and task.cell.source != "yardstick":
            pictures.setdefault(task.cell.name, {}).update(read_shard(store, task).thumbnails)
    references: dict[str, bytes] = {}
    for cell in plan.cells:
        if not is_reported(cell) or cell.references is None:
            continue
        source = plan.cell(cell.references)
        for place in range(min(cell.n, plan.config.thumbnails)):
            whose = plan.protocol.sample_id(source, plan.protocol.reference_index(cell, place))
            if whose in pictures.get(source.name, {}):
                references[plan.protocol.sample_id(cell, place)] = pictures[source.name][whose]
    return Gallery(references, pictures)


def _require_thresholds(config: EvalConfig, findings: Findings) -> None:
    names = describe(findings)
    for threshold in config.thresholds:
        if threshold.metric not in names:
            raise ConfigError(
                f"threshold on metric {threshold.metric!r}, which this evaluation lacks; it has: {', '.join(names)}"
            )


def _manifest(plan: Plan, findings: Findings) -> bytes:
    """Everything that the run is made of, for whoever wants to repeat it."""
    said = {
        "config": plan.config.model_dump(mode="json"),
        "cells": [asdict(cell) for cell in plan.cells],
        "adapters": plan.sha256,
        "provenance": plan.provenance,
        "networks": findings.settings,
    }
    return f"{json.dumps(said, indent=2)}\n".encode()
