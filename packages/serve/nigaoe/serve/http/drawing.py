"""Orders drawn for HTTP: refusals become problems, time is bounded, and who hangs up is not drawn for any longer."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Drawn, EngineStoppedError, Event, Order, Partial, Progress, Refusal
from nigaoe.serve.services import Services

ResultT = TypeVar("ResultT")

RETRY_AFTER_S = 2


async def drawn(services: Services, order: Order) -> Drawn:
    """Draw an order to its end; being cancelled takes its rows out before the next step.

    Raises:
        Problem: As `events`.
    """
    async with aclosing(events(services, order)) as told:
        async for event in told:
            if isinstance(event, Drawn):
                return event
    raise RuntimeError(f"the backend said no last word on order {order.id!r}")


async def events(services: Services, order: Order) -> AsyncGenerator[Progress | Partial | Drawn, None]:
    """What happens to an order; the last is a `Drawn`. Closing it takes its rows out before the next step.

    Raises:
        Problem: It is refused (400, 429, 500), or not drawn within its own `deadline_s` (504).
    """
    loop = asyncio.get_running_loop()
    until = None if order.deadline_s is None else loop.time() + order.deadline_s
    # The protocol promises an iterator that can be closed.
    source = cast("AsyncGenerator[Event, None]", services.backend().draw(order))
    async with aclosing(source):
        while True:
            try:
                # Around each event: a timeout that is open while we are suspended would hit whoever reads us.
                async with asyncio.timeout_at(until):
                    event = await anext(source, None)
            except TimeoutError:
                assert order.deadline_s is not None
                raise _too_slow(order.deadline_s) from None
            except EngineStoppedError:
                raise lost() from None
            if isinstance(event, Refusal):
                services.instruments.refused(event.kind)
                raise refused(event)
            if event is None:
                return
            if isinstance(event, Drawn):
                _count(services, order, event)
            yield event
            if isinstance(event, Drawn):
                return


def refused(refusal: Refusal) -> Problem:
    """A refusal as HTTP."""
    reason, wait_s = refusal.reason, refusal.retry_after_s or RETRY_AFTER_S
    match refusal.kind:
        case "invalid":
            return Problem(400, "invalid_value", reason)
        case "overloaded":
            return Problem(429, "overloaded", reason, retry_after_s=wait_s)
        case "late":
            return Problem(429, "deadline_exceeded", reason, retry_after_s=wait_s)
        case "failed":
            return Problem(500, "generation_failed", reason, should_retry=False)


def lost() -> Problem:
    """503 for an order whose engine ended under it; the next one will draw it."""
    message = f"the engine was lost and is being replaced; try again in {RETRY_AFTER_S} s"
    return Problem(503, "replica_lost", message, retry_after_s=RETRY_AFTER_S)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of work that is cancelled as soon as the client hangs up; its body must have been read.

    Servers do not agree on this: uvicorn tells of it by a message, Ray Serve cancels whoever answers.

    Raises:
        ClientDisconnect: It hung up.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for one in (task, gone):
            one.cancel()
        # The rows have left only when the task has ended.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_slow(seconds: float) -> Problem:
    message = f"the pictures took longer than {seconds:g} s; ask for fewer pictures or steps, or send a job"
    return Problem(504, "timeout", message, should_retry=False)


def _count(services: Services, order: Order, event: Drawn) -> None:
    adapter = order.image_prompts[0].adapter.name if order.image_prompts else None
    services.instruments.images(order.base, adapter, len(event.pictures))
