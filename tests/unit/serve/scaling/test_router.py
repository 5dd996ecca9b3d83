"""The router's choice, on replicas as it sees them; Ray's own part of it runs in the end-to-end test."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from ray.serve._private.common import DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from nigaoe.serve.orders import AdapterAt, ImagePromptOrder, Order
from nigaoe.serve.scaling.router import WorkRouter

DEPLOYMENT = DeploymentID("engine", "nigaoe")


@dataclass(frozen=True)
class Seen:
    """What a `RunningReplica` shows of a replica."""

    name: str
    routing_stats: dict[str, Any] = field(default_factory=dict)

    @property
    def replica_id(self) -> ReplicaID:
        return ReplicaID(self.name, DEPLOYMENT)


def stats(pending: float, *holds: str, said_s: float | None = None) -> dict[str, Any]:
    moment = time.time() if said_s is None else said_s
    return {"time_s": moment, "pending_row_steps": pending, "row_steps_per_s": 30.0, "holds": list(holds)}


def order(base: str = "a", adapter: str | None = None, steps: int = 20) -> Order:
    prompts = (ImagePromptOrder(adapter=AdapterAt(adapter, "0" * 64, "file")),) if adapter else ()
    return Order(id="r", base=base, prompt="", seeds=(0,), steps=steps, guidance_scale=1.0, image_prompts=prompts)


def ranked(router: WorkRouter, replicas: list[Seen], asked: object) -> list[str]:
    async def choose() -> list[str]:
        pending = PendingRequest([asked], {}, RequestMetadata("id", "internal"))
        ranks = await router.choose_replicas(replicas, pending)  # type: ignore[arg-type]
        assert pending.routing_context.should_backoff
        return [replica.replica_id.unique_id for rank in ranks for replica in rank]

    return asyncio.run(choose())


def made() -> WorkRouter:
    router = WorkRouter.__new__(WorkRouter)
    router.initialize_state()
    return router


def test_the_one_with_the_least_work_comes_first() -> None:
    replicas = [Seen("x", stats(900, "base a")), Seen("y", stats(40, "base a")), Seen("z", stats(400, "base a"))]
    assert ranked(made(), replicas, order()) == ["y", "z", "x"]
    # Calls that are no orders go the same way.
    assert ranked(made(), replicas, ()) == ["y", "z", "x"]


def test_one_that_has_the_weights_is_preferred_until_it_is_much_busier() -> None:
    router = made()
    warm, cold = stats(100, "base a", "adapter f"), stats(0, "base a")
    assert ranked(router, [Seen("cold", cold), Seen("warm", warm)], order(adapter="f")) == ["warm", "cold"]
    assert ranked(router, [Seen("warm", warm), Seen("cold", cold)], order()) == ["cold", "warm"]
    busy = stats(200, "base a", "adapter f")
    assert ranked(router, [Seen("warm", busy), Seen("cold", cold)], order(adapter="f")) == ["cold", "warm"]


def test_what_was_just_sent_counts_until_the_replica_has_said_more() -> None:
    router = made()
    before = time.time() - 0.5
    replicas = [Seen("x", stats(0, "base a", said_s=before)), Seen("y", stats(10, "base a", said_s=before))]
    assert ranked(router, replicas, order())[0] == "x"
    sent = PendingRequest.__new__(PendingRequest)
    sent.args = [order(steps=50)]
    router.on_request_routed(sent, replicas[0].replica_id, None)
    assert ranked(router, replicas, order())[0] == "y"
    told = [Seen("x", stats(0, "base a", said_s=time.time() + 1)), replicas[1]]
    assert ranked(router, told, order())[0] == "x"


def test_before_anything_is_known_all_are_alike() -> None:
    assert sorted(ranked(made(), [Seen("x"), Seen("y")], order())) == ["x", "y"]
