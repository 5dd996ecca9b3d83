"""Shards: the unit of work, of batching and of resuming. A finished one is a file, and its fingerprint says of what."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from nigaoe.core.atomic import write_whole
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.moments import Moments, pack, unpack
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.protocols.protocol import REAL, CellPlan
from nigaoe.eval.running.tables import SampleTable

Statistics = Samples | CountedMoments
"""What is left of features: themselves, or where they would be the larger, their moments."""

_CHECKSUM_BYTES = 16
"""At the end of a file."""


@dataclass(frozen=True)
class ShardTask:
    """Samples `start` to `stop` of a cell."""

    cell: CellPlan
    start: int
    stop: int
    keeps_features: bool = True
    """Whether features are kept, even if their moments would be smaller."""
    thumbnails: int = 0
    """How many of its samples have a small picture kept, the first ones."""
    fingerprint: str = ""
    """Hash of everything that its result depends on."""

    @property
    def id(self) -> str:
        """Sorts by cell, then by position."""
        return f"{self.cell.name}-{self.start:07d}"

    @property
    def size(self) -> int:
        """Samples."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class ShardResult:
    """What is left of a shard: figures per sample, statistics of features, small pictures."""

    id: str
    fingerprint: str
    table: SampleTable
    statistics: dict[str, Statistics]
    """By the name of the network."""
    embeddings: dict[str, Float32[np.ndarray, "N E"]] = field(default_factory=dict)
    """Of real pictures, by the name of the network, so that nobody has to look at them again."""
    keys: UInt8[np.ndarray, "N 16"] = field(default_factory=lambda: np.zeros((0, 16), np.uint8))
    """Of its pictures, by content."""
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    """WebP files by sample."""
    images: dict[str, bytes] = field(default_factory=dict)
    """PNG files by sample, where images are kept; files of their own, not part of the shard."""


def split_cell(cell: CellPlan, shard_size: int, keep_features: int, thumbnails: int) -> list[ShardTask]:
    """Shards of a cell; their bounds depend on nothing else."""
    tasks = []
    for start in range(0, cell.n, shard_size):
        stop = min(start + shard_size, cell.n)
        shown = 0 if cell.source == "yardstick" else min(max(0, thumbnails - start), stop - start)
        tasks.append(ShardTask(cell, start, stop, start < keep_features, shown))
    return tasks


def fingerprint_of(task: ShardTask, samples: Sequence[str], setting: dict[str, Any]) -> str:
    """Hash of a task, what its samples are made from, and the weights, settings and code that make and judge them."""
    # Its size shows in the samples and their strangers; its title, and for real pictures its name, in nothing.
    words = {"n", "title"} | ({"name"} if task.cell.source in REAL else set())
    cell = {key: value for key, value in asdict(task.cell).items() if key not in words}
    said = {"cell": cell, "rows": [task.start, task.stop], "kept": [task.keeps_features, task.thumbnails]}
    text = json.dumps({**said, "samples": list(samples), "setting": setting}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def smaller(samples: Samples, keeps_features: bool) -> Statistics:
    """Features where they are asked for or smaller than their moments, which n < D of them are; else moments."""
    if keeps_features or len(samples.features) < samples.space.dim:
        return samples
    return CountedMoments.of(samples)


class ShardStore:
    """Finished shards as files, written whole or not at all: those of a run, and real pictures for all runs."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def write(self, task: ShardTask, result: ShardResult) -> None:
        """Keep a finished shard, in place of a stale one."""
        buffer = io.BytesIO()
        np.savez(buffer, **_arrays(result))
        content = buffer.getvalue()
        write_whole(self._path(task), content + _checksum(content))

    def has(self, task: ShardTask) -> bool:
        """Whether it is finished, of this task, and undamaged."""
        return self._opened(task) is not None

    def read(self, task: ShardTask) -> ShardResult | None:
        """The finished shard, or None if there is none, it is stale, or its file is damaged."""
        opened = self._opened(task)
        if opened is None:
            return None
        header, content = opened
        with np.load(content, allow_pickle=False) as arrays:
            return _result(task, header, {name: arrays[name] for name in arrays.files})

    def _opened(self, task: ShardTask) -> tuple[dict[str, Any], io.BytesIO] | None:
        try:
            file = self._path(task).read_bytes()
        except FileNotFoundError:
            return None
        whole, checksum = file[:-_CHECKSUM_BYTES], file[-_CHECKSUM_BYTES:]
        # The checksums of a zip file cover its members, not the list of them: one may be lost without a word.
        if _checksum(whole) != checksum:
            return None
        content = io.BytesIO(whole)
        with np.load(content, allow_pickle=False) as arrays:
            header: dict[str, Any] = json.loads(str(arrays["header"]))
        content.seek(0)
        return (header, content) if header["fingerprint"] == task.fingerprint else None

    def _path(self, task: ShardTask) -> Path:
        if task.cell.source in REAL:
            return self.cache / task.fingerprint[:2] / f"{task.fingerprint}.npz"
        return self.folder / f"{task.id}.npz"


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


def _arrays(result: ShardResult) -> dict[str, Any]:
    table = result.table
    header: dict[str, Any] = {
        "id": result.id,
        "fingerprint": result.fingerprint,
        "ids": table.ids,
        "groups": table.groups,
        "failed": table.failed,
        "columns": list(table.columns),
        "statistics": {},
    }
    arrays: dict[str, Any] = {
        "columns": np.array(list(table.columns.values()), np.float64).reshape(len(table.columns), len(table.ids)),
        "keys": result.keys,
    }
    for name, kept in result.statistics.items():
        n = kept.moments.n if isinstance(kept, CountedMoments) else None
        header["statistics"][name] = {"space": asdict(kept.space), "n": n}
        arrays[f"ids.{name}"] = kept.ids
        if isinstance(kept, CountedMoments):
            arrays |= {f"mean.{name}": kept.moments.mean, f"m2.{name}": pack(kept.moments.m2)}
        else:
            arrays[f"features.{name}"] = kept.features
    arrays |= {f"embedding.{name}": rows for name, rows in result.embeddings.items()}
    arrays |= {f"webp.{name}": np.frombuffer(webp, np.uint8) for name, webp in result.thumbnails.items()}
    return {"header": np.array(json.dumps(header)), **arrays}


def _result(task: ShardTask, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> ShardResult:
    def part(kind: str) -> dict[str, np.ndarray]:
        return {name.partition(".")[2]: array for name, array in arrays.items() if name.partition(".")[0] == kind}

    statistics: dict[str, Statistics] = {}
    for name, said in header["statistics"].items():
        space, ids = FeatureSpace(**said["space"]), arrays[f"ids.{name}"]
        if said["n"] is None:
            statistics[name] = Samples(space, ids, arrays[f"features.{name}"])
        else:
            moments = Moments(said["n"], arrays[f"mean.{name}"], unpack(arrays[f"m2.{name}"], space.dim))
            statistics[name] = CountedMoments(space, ids, moments)
    columns = dict(zip(header["columns"], arrays["columns"], strict=True))
    return ShardResult(
        id=task.id,
        fingerprint=task.fingerprint,
        table=SampleTable(tuple(header["ids"]), tuple(header["groups"]), columns, header["failed"]),
        statistics=statistics,
        embeddings=part("embedding"),
        keys=arrays["keys"],
        thumbnails={name: webp.tobytes() for name, webp in part("webp").items()},
    )
