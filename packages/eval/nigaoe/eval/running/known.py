"""What was seen of the references once, for every shard that is drawn from them.

N pictures, E numbers.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from nigaoe.eval.protocols.protocol import strangers
from nigaoe.eval.running.merging import read_shard
from nigaoe.eval.running.panel import Known
from nigaoe.eval.running.plan import Plan
from nigaoe.eval.running.shards import ShardResult, ShardStore, ShardTask

_SHARDS = 32
"""In memory at a time; shards that follow one another share their references."""


class KnownReferences:
    """Reads shards of references as they are needed."""

    def __init__(self, plan: Plan, store: ShardStore) -> None:
        self.plan, self._store = plan, store
        self._tasks = {cell.name: plan.tasks_of(cell) for cell in plan.cells if cell.source == "references"}
        self._read = lru_cache(maxsize=_SHARDS)(self._read_shard)

    def of(self, task: ShardTask) -> Known | None:
        """What is known of a shard's references and of its strangers'; None for a cell whose references are its own."""
        cell, protocol = task.cell, self.plan.protocol
        if cell.references is None:
            return None
        own = range(task.start, task.stop)
        places = {*own, *(place for i in own for place in strangers(protocol, cell, i))}
        rows = sorted({protocol.reference_index(cell, place) for place in places})
        found = [self._row(cell.references, row) for row in rows]
        names = list(found[0][1])
        keys = np.stack([key for key, _ in found])
        return Known(keys, {name: np.stack([embeddings[name] for _, embeddings in found]) for name in names})

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and content hash of every reference."""
        for name, tasks in self._tasks.items():
            for number in range(len(tasks)):
                result = self._read(name, number)
                for sample, key in zip(result.table.ids, result.keys, strict=True):
                    yield sample, key.tobytes()

    def _row(self, cell: str, row: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        size = self._tasks[cell][0].size
        result, at = self._read(cell, row // size), row % size
        return result.keys[at], {name: rows[at] for name, rows in result.embeddings.items()}

    def _read_shard(self, cell: str, number: int) -> ShardResult:
        return read_shard(self._store, self._tasks[cell][number])
