"""Replicas without a device: rows that share calls, in simulated time.

A call with k rows takes base_s + row_s * k, so a row advances by 1 / (base_s + row_s * k) steps a second while k share
the replica. All of them advance alike, so who ends next is known by the total at which each will have all its steps.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

from nigaoe.serve.scaling.traces import Arrival


@dataclass(frozen=True)
class Device:
    """How fast a replica is."""

    base_s: float = 0.03
    row_s: float = 0.03
    """A step of a row beside others; 16 rows make some 31 row-steps a second, one 17."""
    max_rows: int = 16

    def row_steps_per_s(self, rows: int) -> float:
        """Of so many rows together."""
        return rows / (self.base_s + self.row_s * rows) if rows else 0.0


@dataclass(eq=False)
class Waiting:
    """An order on its way."""

    arrival: Arrival
    rows_left: int = 0
    """Not yet let in."""
    rows_open: int = 0
    """Not yet done."""
    began_s: float | None = None
    """When its first row was stepped."""


@dataclass(eq=False)
class SimulatedReplica:
    """Rows in flight, and orders that wait inside."""

    device: Device
    ready_s: float
    """When it begins to draw."""
    leaving: bool = False
    now_s: float = 0.0
    progress: float = 0.0
    """Steps that a row has taken which was there from the beginning."""
    rows: list[tuple[float, int, Waiting]] = field(default_factory=list)
    """Heap: the progress at which it is done, a number, its order."""
    inside: deque[Waiting] = field(default_factory=deque)
    waiting_row_steps: float = 0.0
    orders: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def pending_row_steps(self) -> float:
        """Steps still to take."""
        return sum(end - self.progress for end, _, _ in self.rows) + self.waiting_row_steps

    def take(self, order: Waiting) -> None:
        """Let an order in; call `advance` to this moment first."""
        self.inside.append(order)
        self.orders += 1
        self.waiting_row_steps += order.rows_left * order.arrival.steps
        self._fill()

    def next_end_s(self) -> float | None:
        """When the next row is done."""
        if not self.rows:
            return None
        return self.now_s + (self.rows[0][0] - self.progress) * self._step_s()

    def advance(self, to_s: float) -> list[Waiting]:
        """Step until a moment, no later than `next_end_s`; orders that ended."""
        if self.rows:
            self.progress += (to_s - self.now_s) / self._step_s()
        self.now_s = to_s
        ended = []
        while self.rows and self.rows[0][0] <= self.progress + 1e-6:
            _, _, order = heapq.heappop(self.rows)
            order.rows_open -= 1
            if order.rows_open == 0:
                ended.append(order)
        self.orders -= len(ended)
        self._fill()
        return ended

    def _fill(self) -> None:
        while self.inside and len(self.rows) < self.device.max_rows:
            order = self.inside[0]
            order.began_s = self.now_s if order.began_s is None else order.began_s
            order.rows_left -= 1
            self.waiting_row_steps -= order.arrival.steps
            heapq.heappush(self.rows, (self.progress + order.arrival.steps, next(self._numbers), order))
            if order.rows_left == 0:
                self.inside.popleft()

    def _step_s(self) -> float:
        return self.device.base_s + self.device.row_s * len(self.rows)
