"""Which replica draws an order: the one with the least work that has its base and adapters in memory.

Ray's own choice, the shorter queue of two at random, counts an order of 4 steps as much as one of 800.
"""

import time
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from nigaoe.serve.orders import Order
from nigaoe.serve.scaling.arrivals import row_steps

STATS_PERIOD_S = 1.0
"""How often a replica says what it is doing."""
LOADING_S = 5.0
"""Seconds of work that a replica without the weights may be ahead of one with them."""


class WorkRouter(FIFOMixin, RequestRouter):
    """Ranks all replicas by work; Ray goes on to the next where one has no place."""

    def initialize_state(self, **kwargs: Any) -> None:
        self._sent: dict[ReplicaID, list[tuple[float, int]]] = {}
        """What went to a replica since it last said what it has: moments and row-steps."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Each a rank of its own, the best first."""
        order: object = None
        if pending_request is not None:
            # Without it Ray asks again and again without a pause where all are full.
            pending_request.routing_context.should_backoff = True
            order = pending_request.args[0] if pending_request.args else None
        return [[replica] for replica in sorted(candidate_replicas, key=lambda replica: self._cost(replica, order))]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        """Remember what the replica has not yet told of."""
        order = pending_request.args[0] if pending_request.args else None
        if isinstance(order, Order):
            self._sent.setdefault(replica_id, []).append((time.time(), row_steps(order)))

    def _cost(self, replica: RunningReplica, order: object) -> float:
        """Row-steps before this order's turn, and those that loading would take the place of."""
        stats = replica.routing_stats
        said_s = float(stats.get("time_s", 0.0))
        sent = [(moment, work) for moment, work in self._sent.get(replica.replica_id, ()) if moment > said_s]
        self._sent[replica.replica_id] = sent
        work = float(stats.get("pending_row_steps", 0.0)) + sum(work for _, work in sent)
        if isinstance(order, Order) and stats and not needs(order) <= set(stats.get("holds", ())):
            work += LOADING_S * float(stats.get("row_steps_per_s", 0.0))
        return work


def needs(order: Order) -> set[str]:
    """Weights that an order is drawn with."""
    return {f"base {order.base}", *(f"adapter {prompt.adapter.name}" for prompt in order.image_prompts)}
