"""Replicas as the ingress sees them through Ray Serve: refusals, overload and lost replicas become HTTP problems."""

import asyncio
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from nigaoe.core.errors import RequestError
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Drawn, EngineStats, Order, Refusal

RETRY_AFTER_S = 2


class RayBackend:
    """Draws on whichever replica Ray Serve chooses; a `Backend`."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle

    async def draw(self, order: Order) -> Drawn:
        """Draw all pictures of an order.

        Raises:
            RequestError: The base cannot do what was asked.
            Problem: 503; nothing was drawn, and a later attempt may succeed.
        """
        result = await _answer(self._handle.draw_or_refuse.remote(order))
        if isinstance(result, Refusal):
            raise RequestError(result.reason)
        assert isinstance(result, Drawn)
        return result

    async def stats(self) -> EngineStats:
        """Ask one replica how it is.

        Raises:
            Problem: 503, as in `draw`.
        """
        result = await _answer(self._handle.stats.remote())
        assert isinstance(result, EngineStats)
        return result


async def _answer(response: "DeploymentResponse[Any] | DeploymentResponseGenerator[Any]") -> object:
    assert isinstance(response, DeploymentResponse)
    try:
        return await response
    except asyncio.CancelledError:
        # The client has gone or time is up: without this the replica would draw to the end.
        response.cancel()  # type: ignore[no-untyped-call]
        raise
    except BackPressureError:
        message = f"all replicas are busy and the queue is full; try again in {RETRY_AFTER_S} s"
        raise Problem(503, "overloaded", message, retry_after_s=RETRY_AFTER_S) from None
    except (RayActorError, DeploymentUnavailableError):
        message = f"the replica was lost and is being replaced; try again in {RETRY_AFTER_S} s"
        raise Problem(503, "replica_lost", message, retry_after_s=RETRY_AFTER_S) from None
