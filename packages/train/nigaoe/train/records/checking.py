"""Check: every picture of a dataset looked at once, on all of a Ray cluster."""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayTaskError
from tqdm import tqdm

from nigaoe.core.base_parts import load_tokenizers, read_outline
from nigaoe.core.errors import NigaoeError
from nigaoe.core.manifests import write_json
from nigaoe.train.cluster import connected
from nigaoe.train.config import TrainConfig
from nigaoe.train.records.check_page import choose_shown, thumbnails_of, write_page
from nigaoe.train.records.check_report import DatasetCheck
from nigaoe.train.records.findings import KINDS, is_left_out
from nigaoe.train.records.looking import RowLook, look_at_rows
from nigaoe.train.records.quarantine import write_quarantine
from nigaoe.train.records.reading import all_records
from nigaoe.train.records.record import Record
from nigaoe.train.records.tally import Demands, Tally
from nigaoe.train.samples.buckets import bucket_shapes

CHUNK_ROWS = 64
"""Rows per task: some seconds of work, and the most that waits for its turn to be counted."""
IN_FLIGHT = 3
"""Tasks under way for each CPU, so that none waits for the driver."""


def check_dataset(config: TrainConfig, out: Path) -> DatasetCheck:
    """Look at every row on the config's cluster and write `quarantine.jsonl`, `check.json` and `report.html`.

    An earlier quarantine list is not applied: the new one replaces it.

    Raises:
        BaseModelError: The base's settings or tokenizer cannot be found.
        ConfigError: The base cannot be trained at this resolution, or no cluster answers.
        DataError: The source cannot be read, or the place where its pictures are kept fails.
    """
    data = config.data
    records = all_records(data)
    # Both tokenizers of SDXL cut captions into the same tokens.
    tokenizer = load_tokenizers(config.base)[0]
    tally = Tally(_demands(config, int(tokenizer.model_max_length)))
    # A cluster on this machine takes all of its CPUs: nothing is trained meanwhile.
    cluster = config.cluster
    spare_cpus = (os.cpu_count() or 1) - math.ceil(cluster.num_workers * cluster.cpus_per_worker)
    with connected(cluster, extra_cpus=max(0, spare_cpus)):
        with tqdm(total=len(records), desc="check", unit="row", dynamic_ncols=True) as bar:
            for rows, looks in _looked_at(records):
                captions = [caption for row in rows for caption in row.captions]
                lengths = iter(map(len, tokenizer(captions, verbose=False).input_ids if captions else ()))
                for row, look in zip(rows, looks, strict=True):
                    tally.add(row, look, [next(lengths) for _ in row.captions])
                bar.update(len(rows))
        report = tally.result(data.source, config.base)
        write_check(report, records, out)
    return report


def _demands(config: TrainConfig, token_limit: int) -> Demands:
    outline = read_outline(config.base)
    resolution_px = config.data.resolution_px or outline.default_size_px
    shapes = bucket_shapes(resolution_px, outline.size_multiple, config.data.aspect_ratios)
    return Demands(resolution_px, shapes, token_limit)


def write_check(report: DatasetCheck, records: Sequence[Record], out: Path) -> None:
    """Write the list, the report and the page of a finished check."""
    out.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    for finding in report.findings:
        if is_left_out(finding.kind):
            reasons.setdefault(finding.key, f"{KINDS[finding.kind].title.lower()}: {finding.reason}")
    write_quarantine(out / "quarantine.jsonl", reasons)
    write_json(report, out / "check.json")
    shown = choose_shown(report, [record.key for record in records])
    wanted = shown.keys
    pictures = {record.key: record.image for record in records if record.key in wanted}
    copies = ray.get(ray.remote(num_cpus=1)(thumbnails_of).remote(list(pictures.values())))
    thumbnails = {key: copy for key, copy in zip(pictures, copies, strict=True) if copy}
    write_page(out / "report.html", report, shown, thumbnails)


def _looked_at(records: Sequence[Record]) -> Iterator[tuple[Sequence[Record], list[RowLook]]]:
    """Chunks and their looks, in order: which of two equal pictures is the first must not depend on the cluster."""
    # One bad picture costs its own row; what ends a whole process, such as a lost machine, is tried again.
    look = ray.remote(num_cpus=1, max_retries=3)(look_at_rows)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    limit = IN_FLIGHT * max(1, int(resources.get("CPU", 1)))
    waiting: deque[tuple[Sequence[Record], ray.ObjectRef[list[RowLook]]]] = deque()
    for start in range(0, len(records), CHUNK_ROWS):
        rows = records[start : start + CHUNK_ROWS]
        waiting.append((rows, look.remote(rows)))
        if len(waiting) == limit:
            first, looks = waiting.popleft()
            yield first, _fetched(looks)
    for rest, looks in waiting:
        yield rest, _fetched(looks)


def _fetched(looks: ray.ObjectRef[list[RowLook]]) -> list[RowLook]:
    try:
        return ray.get(looks)
    except RayTaskError as error:
        if isinstance(error.cause, NigaoeError):
            # The cause alone: Ray's own message is the traceback of another process.
            raise error.cause from None
        raise
