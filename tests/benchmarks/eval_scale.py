"""What the end of an evaluation takes as pictures grow: shards on disk to a report, without a picture or a network.

    python tests/benchmarks/eval_scale.py --json eval_scale.json   # up to a million samples a cell; 3 GB of disk
    python tests/benchmarks/eval_scale.py --samples 1000 4000      # that it runs

Two cells of a toy run, with and without adapter, of that many samples each, as workers leave them: figures per sample,
512 features of a CLIP of the first 2,000, moments of the rest. Shards are merged and the report is made of them in a
process of its own for each size, whose largest memory is told. What grows is time, and the table of figures.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from made_shards import space_of_width
from nigaoe.core.atomic import write_whole
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.findings.samples_file import write_samples
from nigaoe.eval.findings.summary import make_report, tables_of
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.protocols.protocol import CellPlan
from nigaoe.eval.running.merging import merge_cell
from nigaoe.eval.running.panel import JUDGED
from nigaoe.eval.running.plan import Plan, make_plan
from nigaoe.eval.running.shards import ShardResult, ShardStore, ShardTask, smaller, split_cell
from nigaoe.eval.running.tables import WRONG, SampleTable
from nigaoe.eval.running.worker import Findings

DIM, SHARD, STRANGERS, KEPT = 512, 1024, 4, 2_000
CELLS = ("train-photo", "photo-none", "photo-adapter")
FIGURES = (*JUDGED, "clip_i", *(f"clip_i{WRONG}{k}" for k in range(STRANGERS)), "clip_t", "width_px", "height_px")


@dataclass(frozen=True)
class Large:
    """A protocol's cells, fewer and larger."""

    whole: Any
    n: int

    def cells(self) -> list[CellPlan]:
        """The yardstick, and two systems."""
        sizes = dict(zip(CELLS, (KEPT, self.n, self.n), strict=True))
        return [replace(cell, n=sizes[cell.name]) for cell in self.whole.cells() if cell.name in CELLS]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def large_plan(out: Path, n: int) -> Plan:
    """Shards of so many samples a cell, of which nothing is hashed."""
    values = {
        "out": out,
        "protocol": {"kind": "toy", "n": 8, "yardstick_n": 8},
        "adapters": {"demo": "toy/adapter"},
        "metrics": {"keep_features": KEPT},
    }
    plan = make_plan(EvalConfig.model_validate(values))
    large: Any = Large(plan.protocol, n)
    tasks = [
        replace(task, fingerprint=f"{abs(hash(task.id)):032d}")
        for cell in large.cells()
        for task in split_cell(cell, SHARD, KEPT, thumbnails=0)
    ]
    return replace(plan, protocol=large, tasks=tasks)


def result_of(task: ShardTask, seed: int) -> ShardResult:
    """What a worker would leave."""
    rng, places = np.random.default_rng(seed), range(task.start, task.stop)
    ids = [f"{place:07d}" for place in places]
    features = rng.normal(size=(task.size, DIM)).astype(np.float32)
    samples = Samples.of(space_of_width(DIM, "clip"), features, ids)
    figures = {name: rng.normal(size=task.size) for name in FIGURES}
    return ShardResult(
        id=task.id,
        fingerprint=task.fingerprint,
        table=SampleTable(tuple(ids), tuple(ids), figures, {}),
        statistics={"clip": smaller(samples, task.keeps_features)},
        keys=rng.integers(0, 256, (task.size, 16), dtype=np.uint8),
    )


def report_of(plan: Plan, store: ShardStore) -> Iterator[tuple[str, float]]:
    """Merge and report; tells how long each took."""
    begun = time.perf_counter()
    merged = {cell.name: merge_cell(store, plan.tasks_of(cell)) for cell in plan.cells}
    yield "merged_s", time.perf_counter() - begun
    begun = time.perf_counter()
    space = next(iter(merged[CELLS[0]].sides.values())).kept.space
    tables = tables_of(plan, merged)
    networks = {name: "net f00d" for name in (*JUDGED, "clip_i", "clip_t")}
    report = make_report(plan, Findings([], networks, [space]), [], merged, tables)
    yield "report_s", time.perf_counter() - begun
    begun = time.perf_counter()
    write_samples(plan.config.out / "samples.csv", tables)
    write_whole(plan.config.out / "report.json", report.model_dump_json().encode())
    yield "written_s", time.perf_counter() - begun


def measured(folder: Path, n: int) -> dict[str, object]:
    """Of one size, shards made beforehand in the same process, one at a time."""
    plan = large_plan(folder, n)
    store = ShardStore(folder / "shards", folder / "cache")
    for seed, task in enumerate(plan.tasks):
        store.write(task, result_of(task, seed))
    before = _largest_mib()
    took = dict(report_of(plan, store))
    return {"samples": n, "shards": len(plan.tasks), **took, "before_mib": before, "largest_mib": _largest_mib()}


def _largest_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each size in a process of its own; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", type=Path, help="where to write the rows")
    arguments = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for n in arguments.samples:
        # One that is killed for its memory ends this, too.
        with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=context) as alone:
            rows.append(alone.submit(measured, Path(folder), n).result())
        told = {key: round(value, 1) if isinstance(value, float) else value for key, value in rows[-1].items()}
        print(json.dumps(told), flush=True)  # noqa: T201
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
