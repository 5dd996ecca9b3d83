"""From shards to cells: read once, in the order of the shards, so that it does not matter who finished first.

One shard is in memory at a time. What stays of a cell is a row of figures per sample, moments, and as many features as
the config keeps. N samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.moments import Moments
from nigaoe.eval.metrics.samples import UNNAMED, Samples
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.running.shards import ShardResult, ShardStore, ShardTask, Statistics
from nigaoe.eval.running.tables import SampleTable

_BLOCK = 4096
"""Rows whose moments are taken at once: their bounds hang on the order of the shards alone."""


@dataclass(frozen=True, eq=False)
class Side:
    """All that is known of a cell's features under one network."""

    kept: Samples
    """Of the first samples, see `MetricsConfig.keep_features`."""
    moments: CountedMoments
    """Of all samples."""

    @property
    def has_all(self) -> bool:
        """Whether all features are kept."""
        return len(self.kept.ids) == self.moments.moments.n


@dataclass(frozen=True, eq=False)
class MergedCell:
    """A finished cell."""

    table: SampleTable
    sides: dict[str, Side]
    """By the name of the network."""
    keys: UInt8[np.ndarray, "N 16"]
    """Of its pictures, by content."""


def merge_cell(store: ShardStore, tasks: Sequence[ShardTask]) -> MergedCell:
    """All shards of a cell.

    Raises:
        DataError: A shard is missing or damaged.
    """
    tables, keys = list[SampleTable](), list[np.ndarray]()
    sides: dict[str, _GrowingSide] = {}
    for task in tasks:
        result = read_shard(store, task)
        tables.append(result.table)
        keys.append(result.keys)
        for name, statistics in result.statistics.items():
            side = sides.setdefault(name, _GrowingSide.empty(statistics))
            side.add(statistics, task.keeps_features)
    return MergedCell(_joined(tables), {name: side.whole() for name, side in sides.items()}, np.concatenate(keys))


def read_shard(store: ShardStore, task: ShardTask) -> ShardResult:
    """A shard that must be there.

    Raises:
        DataError: It is not.
    """
    result = store.read(task)
    if result is None:
        raise DataError(f"shard {task.id!r} is missing or damaged; run the evaluation again to make it anew")
    return result


@dataclass(eq=False)
class _GrowingSide:
    space: FeatureSpace
    moments: Moments
    ids: list[np.ndarray]
    """Of the samples in the moments; looked through once, at the end."""
    features: list[Samples]
    block: list[Samples]
    """Whose moments are not taken yet."""

    @classmethod
    def empty(cls, like: Statistics) -> "_GrowingSide":
        return cls(like.space, Moments.empty(like.space.dim), [], [], [])

    def add(self, statistics: Statistics, is_kept: bool) -> None:
        self.space.require_same(statistics.space)
        if isinstance(statistics, CountedMoments):
            self._close()
            self._count(statistics)
            return
        if is_kept:
            self.features.append(statistics)
        self.block.append(statistics)
        if sum(len(one.ids) for one in self.block) >= _BLOCK:
            self._close()

    def whole(self) -> Side:
        self._close()
        ids = np.sort(np.concatenate([np.zeros(0, np.int64), *self.ids]), kind="stable")
        named = ids[ids != UNNAMED]
        if (repeated := int((named[1:] == named[:-1]).sum())) > 0:
            raise DataError(f"{repeated} samples stand in two shards of a cell; give every sample an id of its own")
        return Side(_all_of(self.features, self.space), CountedMoments(self.space, ids, self.moments))

    def _close(self) -> None:
        if self.block:
            self._count(CountedMoments.of(_all_of(self.block, self.space)))
            self.block = []

    def _count(self, counted: CountedMoments) -> None:
        self.moments = self.moments.merge(counted.moments)
        self.ids.append(counted.ids)


def _all_of(parts: Iterable[Samples], space: FeatureSpace) -> Samples:
    listed, nothing = list(parts), Samples.empty(space)
    ids = np.concatenate([nothing.ids, *(part.ids for part in listed)])
    return Samples.in_order(space, ids, np.concatenate([nothing.features, *(part.features for part in listed)]))


def _joined(tables: Sequence[SampleTable]) -> SampleTable:
    # A shard of failed samples has no figures at all.
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    columns = {
        name: np.concatenate([table.columns.get(name, np.full(len(table.ids), np.nan)) for table in tables])
        for name in names
    }
    ids = tuple(name for table in tables for name in table.ids)
    if len(set(ids)) < len(ids):
        raise DataError(f"{len(ids) - len(set(ids))} sample ids stand for two samples; give every sample its own")
    failed = {name: reason for table in tables for name, reason in table.failed.items()}
    return SampleTable(ids, tuple(group for table in tables for group in table.groups), columns, failed)
