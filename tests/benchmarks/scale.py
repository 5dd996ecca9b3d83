"""What growth costs: rows of a dataset, workers of a cluster, checkpoints of a run.

    python tests/benchmarks/scale.py --json scale.json

Datasets of up to ten million rows are a manifest, a whole index, and one real shard under all names. Clusters are
simulated (`ray.cluster_utils.Cluster`): nodes of one CPU each on this machine, so that 8 workers share its cores, and
times of start-up are those of a machine that starts everything at once. `nigaoe train` runs there as a user starts it,
with a clock around what it calls.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

# Before any of them is imported, here and in what is started from here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# What several benchmarks and tests share lies beside their folders.
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import ray.train
import torch

from nigaoe.core.config import load_config
from nigaoe.core.manifests import PreparedShard, read_prepared, write_json
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train import cluster
from nigaoe.train.config import TrainConfig
from nigaoe.train.running import checkpoints, engines, job, loop
from nigaoe.train.samples.choices import index_name
from nigaoe.train.samples.draws import sample_generator
from nigaoe.train.samples.features import read_features, write_features
from nigaoe.train.samples.prepared import PreparedDataset
from nigaoe.train.samples.row_files import RowFile, write_row_file
from nigaoe.train.samples.sampler import SampleOrder
from preparing_here import prepare_here
from simulated_cluster import simulated_cluster
from training_runs import starts, write_config

Row = dict[str, Any]
COLUMNS = ("latent_mean", "latent_logvar", "image_embeds", "token_ids", "num_captions", "time_ids", "contents")
SHARD_ROWS = 500
PER_IDENTITY = 4
STEPS, EVERY = 24, 8
"""Of the runs on clusters: steps, and steps from checkpoint to checkpoint."""
ASKS = 20
MIB = 1024**2


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def traced_peak(work: Callable[[], object]) -> int:
    """Bytes that Python and numpy had allocated at most, beyond what they had before."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure_sampler(rows: int, buckets: int, batch_size: int, draws: int = 200) -> Row:
    """Construction, and batches of random steps of two epochs."""
    counts = [rows // buckets] * buckets
    construct = statistics.median(seconds(lambda: SampleOrder(counts, batch_size, seed=0)) for _ in range(9))
    order = SampleOrder(counts, batch_size, seed=0)
    steps = np.random.default_rng(0).integers(0, max(1, 2 * rows // batch_size), draws).tolist()
    times = [seconds(partial(order.at, step)) for step in steps]
    return {
        "what": "sampler",
        "rows": rows,
        "buckets": buckets,
        "batch_size": batch_size,
        "construct_ms": 1000 * construct,
        "batch_ms": 1000 * statistics.median(times),
        "peak_kib": traced_peak(lambda: [SampleOrder(counts, batch_size, 0).at(step) for step in steps[:20]]) / 1024,
    }


def measure_dataset(small: Path, folder: Path, rows: int, batch_size: int = 64, draws: int = 20) -> Row:
    """Open a prepared dataset of so many rows, and take batches of it."""
    write_large_dataset(small, folder, rows)
    gc.collect()
    before = resident_bytes()
    start = time.perf_counter()
    data = PreparedDataset.open(folder, "other")
    opened_s = time.perf_counter() - start
    opened = resident_bytes()
    order = SampleOrder(data.bucket_rows, batch_size, seed=0)

    def batch(step: int) -> None:
        bucket, numbers = order.at(step)
        data.batch(bucket, numbers, [sample_generator(0, step * batch_size + i) for i in range(batch_size)])

    times = [seconds(partial(batch, step)) for step in range(draws)]
    return {
        "what": "dataset",
        "rows": rows,
        "shards": len(data.manifest.shards),
        "manifest_mib": (folder / "manifest.json").stat().st_size / MIB,
        "open_s": opened_s,
        "open_rss_mib": (opened - before) / MIB,
        "batch_ms": 1000 * statistics.median(times),
        "batches_rss_mib": (resident_bytes() - opened) / MIB,
    }


def write_large_dataset(small: Path, folder: Path, rows: int) -> None:
    """A prepared folder of so many rows: one shard of real rows under all names, and an index of `PER_IDENTITY`."""
    manifest = read_prepared(small)
    folder.mkdir(parents=True)
    write_features(read_features(small, manifest.fingerprint), folder, manifest.fingerprint)
    source = RowFile(small / manifest.shards[0].file)
    columns: dict[str, np.ndarray] = {
        name: np.resize(source.read(name), (SHARD_ROWS, *source.shape(name)[1:])) for name in COLUMNS
    }
    columns |= {"keys": np.full(SHARD_ROWS, ord("x"), np.uint8), "key_ends": np.arange(1, SHARD_ROWS + 1)}
    write_row_file(columns, folder / "shard")
    shards = [PreparedShard(file=f"shard-{i:06}", bucket=0, rows=SHARD_ROWS) for i in range(rows // SHARD_ROWS)]
    for shard in shards:
        os.link(folder / "shard", folder / shard.file)
    bucket = manifest.buckets[0].model_copy(update={"rows": rows})
    counts = {"rows": rows, "identities": rows // PER_IDENTITY, "buckets": [bucket], "shards": shards}
    write_json(manifest.model_copy(update=counts), folder / "manifest.json")
    index: dict[str, np.ndarray] = {
        "identity": np.arange(rows) // PER_IDENTITY,
        "by_identity": np.arange(rows),
        "first_of_identity": np.arange(0, rows + 1, PER_IDENTITY),
        "is_conditioned": np.zeros(rows, np.uint8),
    }
    write_row_file(index, folder / index_name(manifest.fingerprint))


def measure_cluster(nodes: int, folder: Path) -> Row:
    """`nigaoe train` with one worker on each of so many nodes."""
    start = time.perf_counter()
    with simulated_cluster(nodes) as machines:
        cluster_s = time.perf_counter() - start
        out = folder / f"out-{nodes}"
        told = {"address": machines.address, "num_workers": nodes}
        config = write_config(folder, out, steps=STEPS, checkpoint_every=EVERY, cluster=told)
        begun = time.time()
        subprocess.run([sys.executable, __file__, "--train", str(config)], check=True, timeout=540)
        ended = time.time()
    clock: dict[str, Any] = json.loads((out / "clock.json").read_text(encoding="utf-8"))
    loaded, steps = starts(out)[0]["time"], [end for _, end in clock["step"]]
    connecting, connected = clock["connect"]
    blocked = [end - begin for begin, end in clock["report"]]
    return {
        "what": "cluster",
        "nodes": nodes,
        "cluster_s": cluster_s,
        "driver_s": connecting - begun,
        "connect_s": connected - connecting,
        "group_s": clock["entered"] - connected,
        "load_s": loaded - clock["entered"],
        "first_step_s": steps[0] - loaded,
        "start_s": steps[0] - begun,
        "whole_s": ended - begun,
        "step_s": statistics.median(b - a for a, b in zip(steps, steps[1:], strict=False)),
        "report_ms": [round(1000 * x, 1) for x in blocked],
        "save_ms": [round(1000 * (end - begin), 1) for begin, end in clock["save"]],
        "ask_ms": 1000 * statistics.median(end - begin for begin, end in clock["ask"]),
        "load_average": os.getloadavg()[0],
    }


def train_with_a_clock(path: Path) -> None:
    """The driver of `measure_cluster`."""
    config = load_config(path, TrainConfig)
    noted: list[tuple[float, float]] = []

    @contextmanager
    def connected(*arguments: Any, **options: Any) -> Iterator[None]:
        begun = time.time()
        with cluster.connected(*arguments, **options):
            noted.append((begun, time.time()))
            yield

    clocked = partial(loop_with_a_clock, out=str(config.out))
    with patch("nigaoe.train.running.job.connected", connected), patch("nigaoe.train.running.job.train_loop", clocked):
        job.train(config)
    clock = config.out / "clock.json"
    clock.write_text(json.dumps({**json.loads(clock.read_text()), "connect": noted[0]}), encoding="utf-8")


def loop_with_a_clock(arguments: dict[str, Any], out: str) -> None:
    """`train_loop` on a worker; the first one leaves (begin, end) of what it did in `clock.json`."""
    found: dict[str, Any] = {"entered": time.time()}

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        times = found.setdefault(name, [])

        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.time()
            try:
                return function(*arguments, **options)
            finally:
                times.append((begun, time.time()))

        return call

    with ExitStack() as stack:
        for name, owner, key in (
            ("step", engines.Engine, "step"),
            ("save", checkpoints, "save"),
            ("report", ray.train, "report"),
        ):
            stack.enter_context(patch.object(owner, key, clocked(name, getattr(owner, key))))
        loop.train_loop(arguments)
    ask = clocked("ask", ray.train.get_preemption_info)
    for _ in range(ASKS):
        ask()
    if ray.train.get_context().get_world_rank() == 0:
        (Path(out) / "clock.json").write_text(json.dumps(found), encoding="utf-8")


def show(row: Row) -> None:
    """One line."""
    said = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(", ".join(said), flush=True)  # noqa: T201


def measure(nodes: Sequence[int], rows: Sequence[int]) -> Iterator[Row]:
    """All rows of the result, as they come."""
    for count in rows:
        for buckets, batch_size in ((1, 64), (1, 1024), (16, 64), (16, 1024)):
            yield measure_sampler(count, buckets, batch_size)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_portraits(folder / "portraits", people=16, scenes=2, split="train", seed=0)
        prepare_here(load_config(write_config(folder, folder / "unused", steps=1), TrainConfig))
        for count in rows:
            yield measure_dataset(folder / "prepared", folder / f"rows-{count}", count)
        for count in nodes:
            yield measure_cluster(count, folder)


def main() -> None:
    """Measure and print; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4, 8], help="sizes of clusters")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 10_000_000], help="sizes of datasets")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train is not None:
        train_with_a_clock(arguments.train)
        return
    rows = []
    for row in measure(arguments.nodes, arguments.rows):
        show(row)
        rows.append(row)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
