"""One evaluation from config to report: plan, compute what is missing, merge, write."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from nigaoe.core.atomic import write_whole
from nigaoe.core.reports import Report
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.page import write_page
from nigaoe.eval.plan import Plan, make_plan
from nigaoe.eval.pool import cluster, evaluate_shards, start_workers
from nigaoe.eval.shards import ShardResult, ShardStore, ShardTask
from nigaoe.eval.summary import Results, make_report, sample_table
from nigaoe.eval.worker import WorkerSpec

log = logging.getLogger(__name__)

Compute = Callable[[Plan, Sequence[ShardTask], Callable[[ShardResult], None]], None]
"""Evaluates shards in any order and hands over each as it is finished."""


def compute_on_ray(plan: Plan, tasks: Sequence[ShardTask], on_result: Callable[[ShardResult], None]) -> None:
    """Evaluate shards on as many workers as the config says."""
    config = plan.config
    spec = WorkerSpec(config, plan.adapters, Path.cwd(), device="cuda" if config.gpus_per_worker > 0 else "cpu")
    with cluster(config):
        workers = start_workers(spec, min(config.workers, len(tasks)))
        evaluate_shards(workers, tasks, on_result, config.start_timeout_s)


def run_evaluation(config: EvalConfig, compute: Compute = compute_on_ray) -> Report:
    """Evaluate, write everything under `config.out`, and return the report.

    Shards that an earlier, interrupted run finished are not computed again.

    Raises:
        NigaoeError: An input that the user can mend.
    """
    plan = make_plan(config)
    results = _finished(plan, compute)
    report = make_report(plan, results)
    write_whole(config.out / "samples.csv", _csv(plan, results))
    write_page(config.out, plan, report, results)
    # Last, for whoever finds a report may trust that the rest is there.
    write_whole(config.out / "report.json", f"{report.model_dump_json(indent=2)}\n".encode())
    return report


def _finished(plan: Plan, compute: Compute) -> Results:
    store = ShardStore(plan.config.out / "shards")
    found = {task.id: store.read(task) for task in plan.tasks}
    results = {shard_id: result for shard_id, result in found.items() if result is not None}
    missing = [task for task in plan.tasks if task.id not in results]
    sizes = {task.id: task.size for task in plan.tasks}
    log.info("planned shards", extra={"shards": len(plan.tasks), "finished": len(results)})
    with tqdm(total=sum(sizes.values()), initial=sum(sizes[i] for i in results), desc="evaluate", unit="image") as bar:

        def keep(result: ShardResult) -> None:
            store.write(result)
            results[result.id] = result
            bar.update(sizes[result.id])

        if missing:
            compute(plan, missing, keep)
    return results


def _csv(plan: Plan, results: Results) -> bytes:
    rows = sample_table(plan, results)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
