"""Finished shards without pictures: rows of random features and figures under the names of samples."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.protocols.protocol import CellPlan
from nigaoe.eval.running.shards import ShardResult, ShardStore, ShardTask, smaller, split_cell
from nigaoe.eval.running.tables import SampleTable


def space_of_width(dim: int, name: str = "net") -> FeatureSpace:
    """A space that no network stands behind."""
    return FeatureSpace(name, dim, "f00d", "as it is")


def tasks_of(cell: CellPlan, shard_size: int, keep_features: int = 1000) -> list[ShardTask]:
    """Shards of a cell, each with a fingerprint."""
    tasks = split_cell(cell, shard_size, keep_features, thumbnails=0)
    return [replace(task, fingerprint=f"{task.start:04d}-{task.stop:04d}-{cell.name}") for task in tasks]


def made(task: ShardTask, features: np.ndarray, names: list[str] | None = None) -> ShardResult:
    """The shard's part of features [N, D], its first column also as a figure, in float64."""
    rows = slice(task.start, task.stop)
    ids = [f"sample-{i}" for i in range(len(features))][rows] if names is None else names[rows]
    samples = Samples.of(space_of_width(features.shape[1]), features[rows], ids)
    figures = features[rows, 0].astype(np.float64) / 3
    groups = tuple(f"group-{i // 2}" for i in range(task.start, task.stop))
    keys = np.zeros((len(ids), 16), np.uint8)
    keys[:, 0] = np.arange(task.start, task.stop) % 256
    return ShardResult(
        id=task.id,
        fingerprint=task.fingerprint,
        table=SampleTable(tuple(ids), groups, {"x": figures}, {}),
        statistics={"net": smaller(samples, task.keeps_features)},
        keys=keys,
    )


def stored(folder: Path, tasks: list[ShardTask], features: np.ndarray, names: list[str] | None = None) -> ShardStore:
    """A store with all shards of a cell."""
    store = ShardStore(folder / "shards", folder / "cache")
    for task in tasks:
        store.write(task, made(task, features, names))
    return store
