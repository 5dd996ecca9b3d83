"""Shards: the unit of work, of batching and of resuming. A finished one is a file, and its fingerprint says of what."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64

from nigaoe.core.atomic import write_whole
from nigaoe.eval.metrics.moments import Moments, pack, unpack
from nigaoe.eval.protocols.protocol import CellPlan


@dataclass(frozen=True)
class ShardTask:
    """Samples `start` to `stop` of a cell."""

    cell: CellPlan
    start: int
    stop: int
    pictures: tuple[int, ...]
    """Samples whose pictures are kept for the grid."""
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

    @property
    def shuffled(self) -> list[int]:
        """For each sample the one whose reference is the wrong one: the next, the first after the last."""
        return [(index + 1) % self.cell.n for index in range(self.start, self.stop)]


@dataclass(frozen=True, eq=False)
class ShardResult:
    """What is left of a shard: per-sample figures, moments of the features, a few pictures."""

    id: str
    fingerprint: str
    groups: list[str]
    columns: dict[str, list[float]]
    moments: Moments
    pictures: dict[str, bytes]
    """PNG files by `<index>` and, of its reference, `<index>-reference`."""


def split_cell(cell: CellPlan, shard_size: int, grid_rows: Sequence[int]) -> list[ShardTask]:
    """Shards of a cell; their bounds depend on nothing else."""
    starts = range(0, cell.n, shard_size)
    bounds = [(start, min(start + shard_size, cell.n)) for start in starts]
    shown = [] if cell.source == "yardstick" else grid_rows
    return [ShardTask(cell, a, b, tuple(row for row in shown if a <= row < b)) for a, b in bounds]


def fingerprint_of(task: ShardTask, samples: Sequence[str], setting: dict[str, Any]) -> str:
    """Hash of a task, what its samples are made from, and the weights, settings and code that make and judge them."""
    # A cell's size matters only where the last wrong reference wraps around, so a larger n keeps finished shards.
    cell = {key: value for key, value in asdict(task.cell).items() if key not in ("n", "title")}
    said = {"cell": cell, "rows": [task.start, task.stop], "shuffled": task.shuffled, "pictures": task.pictures}
    text = json.dumps({**said, "samples": list(samples), "setting": setting}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class ShardStore:
    """Finished shards as files; written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: ShardResult) -> None:
        """Keep a finished shard, in place of a stale one."""
        header = {"id": result.id, "fingerprint": result.fingerprint, "groups": result.groups, "n": result.moments.n}
        arrays: dict[str, Any] = {
            "header": np.array(json.dumps({**header, "columns": list(result.columns)})),
            "columns": np.array(list(result.columns.values()), np.float64),
            "mean": result.moments.mean,
            "m2": pack(result.moments.m2),
        }
        arrays |= {f"png.{name}": np.frombuffer(png, np.uint8) for name, png in result.pictures.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_whole(self._path(result.id), buffer.getvalue())

    def read(self, task: ShardTask) -> ShardResult | None:
        """The finished shard, or None if there is none, it is stale, or its file is damaged."""
        try:
            # From memory: numpy leaves a file open when it turns out to be damaged.
            content = io.BytesIO(self._path(task.id).read_bytes())
            with np.load(content, allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                if (header["id"], header["fingerprint"]) != (task.id, task.fingerprint):
                    return None
                columns: Float64[np.ndarray, "C N"] = arrays["columns"]
                mean = arrays["mean"]
                return ShardResult(
                    id=task.id,
                    fingerprint=task.fingerprint,
                    groups=header["groups"],
                    columns=dict(zip(header["columns"], columns.tolist(), strict=True)),
                    moments=Moments(header["n"], mean, unpack(arrays["m2"], len(mean))),
                    pictures={
                        k.removeprefix("png."): arrays[k].tobytes() for k in arrays.files if k.startswith("png.")
                    },
                )
        except (FileNotFoundError, BadZipFile, ValueError, KeyError, EOFError):
            return None

    def _path(self, shard_id: str) -> Path:
        return self.folder / f"{shard_id}.npz"
