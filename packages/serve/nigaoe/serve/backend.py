"""Replicas as the ingress sees them through Ray Serve: a replica that is lost is not the client's affair."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RaySystemError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from nigaoe.serve.orders import (
    Drawn,
    EngineStats,
    EngineStoppedError,
    Event,
    Order,
    Partial,
    Picture,
    Progress,
    Refusal,
)
from nigaoe.serve.watching.instruments import Instruments
from nigaoe.serve.watching.tracing import Tracing

log = logging.getLogger(__name__)

ATTEMPTS = 4
"""Replicas that an order may be lost with before it is blamed itself: one that kills replicas must not kill all."""
PAUSE_S = 0.2
"""Before the second attempt; doubled before each further one, while Ray Serve learns of the loss."""
RETRY_AFTER_S = 2

LOST = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    RaySystemError,
    ReplicaUnavailableError,
    EngineStoppedError,
    # A replica refuses what it is asked for in a value, so what it raises is its own end.
    RayTaskError,
)
"""What says that the replica has gone, and nothing of what was asked."""

Result = TypeVar("Result")


class RayBackend:
    """Draws on whichever replica Ray Serve chooses; a `Backend`."""

    def __init__(
        self,
        handle: "DeploymentHandle[Any]",
        instruments: Instruments,
        tracing: Tracing,
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._streaming = handle.options(stream=True)
        self._handle = handle
        self._instruments, self._tracing, self._pause_s = instruments, tracing, pause_s

    async def draw(self, order: Order) -> AsyncIterator[Event]:
        """What happens to an order, to its end.

        An order that is lost with its replica is drawn again by another, and gives the same pictures: its seeds say
        what it gives. What was passed on before is not passed on again.
        """
        order = replace(order, trace=self._tracing.traceparent())
        steps, partials = 0, set[tuple[int, int]]()
        for attempt in range(ATTEMPTS):
            try:
                async with aclosing(self._attempt(order)) as events:
                    async for event in events:
                        if isinstance(event, Progress):
                            if event.step <= steps:
                                continue
                            steps = event.step
                        elif isinstance(event, Partial):
                            if (event.place, event.index) in partials:
                                continue
                            partials.add((event.place, event.index))
                        yield event
                        if isinstance(event, Drawn | Refusal):
                            return
                # A stream that ends before its order does is as good as lost.
                reason = "its stream ended"
            except (BackPressureError, DeploymentUnavailableError) as error:
                yield self._overloaded(error)
                return
            except LOST as error:
                reason = type(error).__name__
            self._instruments.retried()
            log.warning(
                "replica lost while drawing",
                extra={"request_id": order.id, "attempt": attempt + 1, "reason": reason},
            )
            await asyncio.sleep(self._pause_s * 2**attempt)
        yield Refusal("failed", f"{ATTEMPTS} replicas were lost while they drew this; ask for less at once")

    async def embed(self, pictures: tuple[Picture, ...]) -> bytes | Refusal:
        """What the encoders say of pictures."""
        return await self._asked(lambda: self._handle.embed.remote(pictures), bytes)

    async def stats(self) -> EngineStats:
        """Ask one replica how it is.

        Raises:
            EngineStoppedError: None answers.
        """
        found = await self._asked(lambda: self._handle.stats.remote(), EngineStats)
        if isinstance(found, Refusal):
            raise EngineStoppedError(found.reason)
        return found

    async def _attempt(self, order: Order) -> AsyncGenerator[Event]:
        response: Any = self._streaming.draw.remote(order)
        at_work = True
        try:
            async for event in response:
                at_work = not isinstance(event, Drawn | Refusal)
                yield event
            at_work = False
        except Exception:
            at_work = False
            raise
        finally:
            if at_work:
                # The client has gone or time is up: without this the replica would draw to the end.
                response.cancel()

    async def _asked(self, ask: Callable[[], Any], kind: type[Result]) -> "Result | Refusal":
        for attempt in range(ATTEMPTS):
            response = ask()
            try:
                result = await response
                assert isinstance(result, kind | Refusal)
                return result
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (BackPressureError, DeploymentUnavailableError) as error:
                return self._overloaded(error)
            except LOST:
                self._instruments.retried()
                await asyncio.sleep(self._pause_s * 2**attempt)
        return Refusal("failed", f"{ATTEMPTS} replicas were lost over this request; see their logs")

    @staticmethod
    def _overloaded(error: Exception) -> Refusal:
        full = isinstance(error, BackPressureError)
        state = "all replicas are busy and the queue is full" if full else "no replica is there to draw"
        return Refusal("overloaded", f"{state}; try again in {RETRY_AFTER_S} s", RETRY_AFTER_S)
