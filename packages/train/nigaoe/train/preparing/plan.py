"""Which rows go into which shard: decided by the rows alone, so that whoever plans again finds what is there."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nigaoe.train.records.record import Record
from nigaoe.train.samples.buckets import Shape

BLOCK_BYTES = 128 * 2**20
"""The most that the decoded pictures of a shard take. So much travels at once from a process that decodes to one that
encodes, and lies in the object store a few times."""


@dataclass(frozen=True)
class Shard:
    """Rows of one bucket that are encoded together, and lost together when a process dies."""

    file: str
    """Named by the hash of its rows, their pictures and all that encodes them."""
    bucket: int
    shape: Shape
    rows: tuple[int, ...]
    """In the dataset."""


def plan_shards(
    records: Sequence[Record],
    stamps: Sequence[str],
    buckets: Sequence[int],
    shapes: Sequence[Shape],
    settings: dict[str, object],
    *,
    shard_rows: int,
    views: int,
) -> list[Shard]:
    """Shards in the order of buckets, and in each bucket of rows.

    A shard ends when it is full, or earlier where the hash of a row's key says so. So a row that comes or goes changes
    the shard that it is in and seldom the next ones, where shards of equal length would all change from there on.
    """
    shards = []
    for bucket, shape in enumerate(shapes):
        in_memory = views * shape.height * shape.width * 3
        most = max(1, min(shard_rows, BLOCK_BYTES // in_memory))
        rows: list[int] = []
        members = [i for i, assigned in enumerate(buckets) if assigned == bucket]
        for position, row in enumerate(members):
            rows.append(row)
            if len(rows) == most or position == len(members) - 1 or _is_last(records[row].key, most):
                named = _digest([settings, shape, [_identity(records[i], stamps[i]) for i in rows]])
                shards.append(
                    Shard(f"shard-{shape.width}x{shape.height}-{named}.safetensors", bucket, shape, tuple(rows))
                )
                rows = []
    return shards


def _is_last(key: str, most: int) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % (2 * most) == 0


def _identity(record: Record, stamp: str) -> list[object]:
    """All that a row's part of a shard is made of; whose it is stands elsewhere."""
    condition = None if record.condition is None else asdict(record.condition)
    return [record.key, asdict(record.image), condition, record.captions, stamp]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_of(shards: Sequence[Shard], records: Sequence[Record]) -> str:
    """Of a dataset: what is in its shards, in which order, and whose rows they are."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.file}/{len(shard.rows)}\n".encode())
        for row in shard.rows:
            digest.update(f"{records[row].identity}\n".encode())
    return digest.hexdigest()[:16]
