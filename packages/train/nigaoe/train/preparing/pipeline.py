"""The pools on Ray Data: pictures stream from decoders to encoders, one shard at a time; the driver counts."""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
from ray.exceptions import RayError
from tqdm import tqdm

from nigaoe.core.errors import NigaoeError
from nigaoe.train.cluster import connected
from nigaoe.train.config import ClusterConfig
from nigaoe.train.preparing.attempts import forget_attempts
from nigaoe.train.preparing.plan import Shard
from nigaoe.train.preparing.processes import Batch, DecodingProcess, EncodingProcess, Told
from nigaoe.train.preparing.recipe import Recipe
from nigaoe.train.preparing.survey import Found, survey
from nigaoe.train.preparing.workers import Job
from nigaoe.train.records.record import Record

SURVEYED_ROWS = 4096
"""At once. As many take a second or so where they are near, so fewer never leave the driver."""
AHEAD = 2
"""Shards that a process is given, itself busy with one of them; they bound what lies in the object store."""


class PreparationFailed(NigaoeError):
    """A worker gave up; the shards that are finished are kept."""


def survey_rows(records: Sequence[Record], cluster: ClusterConfig, *, with_sizes: bool) -> list[Found]:
    """`survey` on all CPUs of the cluster, unless there are few rows."""
    if len(records) <= SURVEYED_ROWS:
        return survey(records, with_sizes=with_sizes)
    chunks = [records[start : start + SURVEYED_ROWS] for start in range(0, len(records), SURVEYED_ROWS)]
    jobs = [{"number": number, "chunk": pickle.dumps(chunk)} for number, chunk in enumerate(chunks)]
    found: dict[int, list[Found]] = {}
    with _running(cluster), tqdm(total=len(records), desc="look at files", unit="image") as bar:
        rows = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map_batches(
            partial(_survey_chunk, with_sizes=with_sizes), batch_size=1
        )
        for row in _rows(rows):
            found[row["number"]] = pickle.loads(row["found"])
            bar.update(len(found[row["number"]]))
    return [one for number in range(len(chunks)) for one in found[number]]


def _survey_chunk(batch: Batch, *, with_sizes: bool) -> Batch:
    found = survey(pickle.loads(bytes(batch["chunk"][0])), with_sizes=with_sizes)
    return {"number": batch["number"], "found": [pickle.dumps(found)]}


def encode_shards(
    shards: Sequence[Shard], records: Sequence[Record], recipe: Recipe, folder: Path, cluster: ClusterConfig
) -> list[str]:
    """Make shards; returns one line per row that cannot be used, whose shards are not there.

    Raises:
        PreparationFailed: A worker failed for another reason than a picture.
    """
    if not shards:
        return []
    forget_attempts(folder)
    bad: list[str] = []
    with (
        _running(cluster),
        tqdm(total=sum(len(shard.rows) for shard in shards), desc="prepare", unit="image") as bar,
    ):
        for told in _told(shards, records, (recipe, folder, cluster.max_failures), cluster, bar.set_postfix_str):
            if told.failure is not None:
                raise PreparationFailed(
                    f"preparing stopped ({told.failure}); what is finished is kept, mend this and run it again"
                )
            bar.update(told.rows)
            bad += told.bad
    return bad


def _told(
    shards: Sequence[Shard],
    records: Sequence[Record],
    arguments: tuple[object, ...],
    cluster: ClusterConfig,
    note: Callable[[str], None],
) -> Iterator[Told]:
    """What becomes of each shard, in the order in which they are finished."""
    jobs = [_job(shard, records) for shard in shards]
    encoders = min(cluster.num_workers, len(jobs))
    decoders = min(cluster.num_workers * cluster.decoders, len(jobs))
    lacking = _lacking(encoders * cluster.cpus_per_worker + decoders, encoders * cluster.use_gpu)
    if lacking:
        note(lacking)
    decoded = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map_batches(
        DecodingProcess,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=decoders, max_tasks_in_flight_per_actor=AHEAD),
        num_cpus=1,
    )
    encoded = decoded.map_batches(
        EncodingProcess,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=encoders, max_tasks_in_flight_per_actor=AHEAD),
        num_cpus=cluster.cpus_per_worker,
        num_gpus=1 if cluster.use_gpu else None,
    )
    return (Told.model_validate_json(row["told"]) for row in _rows(encoded))


def _job(shard: Shard, records: Sequence[Record]) -> dict[str, Any]:
    told = Told(file=shard.file, rows=len(shard.rows))
    job = Job(shard.file, shard.shape, [records[row] for row in shard.rows])
    return {"told": told.model_dump_json(), "content": job.packed()}


def _lacking(cpus: float, gpus: float) -> str:
    """What a cluster would have to get before everything runs, for whoever watches a bar that does not move."""
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    lacks = [
        f"{wanted:g} {kind}s and has {has.get(kind, 0):g}"
        for kind, wanted in (("CPU", cpus), ("GPU", gpus))
        if has.get(kind, 0) < wanted
    ]
    return f"the cluster is asked for {', '.join(lacks)}" if lacks else ""


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PreparationFailed(
            f"preparing stopped, for processes of it died ({reason}); what is finished is kept, run it again to go on"
        ) from error


@contextmanager
def _running(cluster: ClusterConfig) -> Iterator[None]:
    """The cluster that runs already, or one for as long as it is needed."""
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(connected(cluster, extra_cpus=cluster.num_workers * cluster.decoders))
        # One bar is enough: Ray's own tells of blocks and object stores.
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
