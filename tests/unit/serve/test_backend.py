"""What the ingress makes of replicas that are lost, full or gone; with Ray itself in the end-to-end test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError

from nigaoe.serve.backend import ATTEMPTS, RayBackend
from nigaoe.serve.orders import (
    Drawn,
    EngineStats,
    EngineStoppedError,
    Event,
    Order,
    Partial,
    Progress,
    Refusal,
    Timings,
)
from nigaoe.serve.watching.instruments import Instruments
from nigaoe.serve.watching.prometheus import PrometheusMeter
from nigaoe.serve.watching.tracing import NoTracing

ORDER = Order(id="r", base="b", prompt="", seeds=(0, 1), steps=4, guidance_scale=1.0)
DRAWN = Drawn((b"x", b"y"), (8, 8), Timings(0.0, 0.0, 0.0, 0.0))

Script = list[Event | BaseException]


class Response:
    """What a streaming handle gives: events, and perhaps an error in their midst."""

    def __init__(self, script: Script) -> None:
        self.script, self.cancelled = iter(script), False

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        await asyncio.sleep(0)
        item = next(self.script, None)
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def __await__(self) -> Any:
        return self.__anext__().__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Replicas by script: the first call is answered by the first one."""

    def __init__(self, *scripts: Script) -> None:
        self.responses = [Response(script) for script in scripts]
        self.calls: list[object] = []
        self.draw = self.stats = self.embed = self

    def options(self, stream: bool) -> "Handle":
        assert stream
        return self

    def remote(self, *arguments: object) -> Response:
        self.calls.append(arguments)
        return self.responses[len(self.calls) - 1]


def backend(handle: Handle) -> tuple[RayBackend, CollectorRegistry]:
    meter = PrometheusMeter()
    return RayBackend(handle, Instruments(meter), NoTracing(), pause_s=0.0), meter.registry  # type: ignore[arg-type]


def events(handle: Handle) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in backend(handle)[0].draw(ORDER)]

    return asyncio.run(collect())


LOST_BY_ALL: list[Script] = [[ActorDiedError()] for _ in range(ATTEMPTS)]
LOSSES: list[Callable[[], BaseException]] = [
    ActorDiedError,
    lambda: ActorUnavailableError("gone", None),
    lambda: EngineStoppedError("stopped"),
    lambda: RayTaskError("draw", "", RuntimeError("CUDA")).as_instanceof_cause(),  # type: ignore[no-untyped-call]
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_replica_is_replaced_and_nothing_is_told_twice(loss: Callable[[], BaseException]) -> None:
    first: Script = [Progress(1, 4), Partial(0, 0, b"p"), Progress(2, 4), loss()]
    second: Script = [Progress(1, 4), Partial(0, 0, b"p"), Partial(1, 0, b"q"), Progress(3, 4), DRAWN]
    handle = Handle(first, second)
    told = events(handle)
    assert told == [
        Progress(1, 4),
        Partial(0, 0, b"p"),
        Progress(2, 4),
        Partial(1, 0, b"q"),
        Progress(3, 4),
        DRAWN,
    ]
    assert len(handle.calls) == 2


def test_a_stream_that_stops_short_is_lost_too() -> None:
    assert events(Handle([Progress(1, 4)], [DRAWN])) == [Progress(1, 4), DRAWN]


def test_an_order_that_loses_every_replica_is_given_up() -> None:
    handle = Handle(*LOST_BY_ALL)
    (refusal,) = events(handle)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "failed"
    assert "4 replicas were lost" in refusal.reason


def test_a_full_queue_is_overload_and_is_not_tried_again() -> None:
    handle = Handle([BackPressureError(3, 2)])
    (refusal,) = events(handle)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "overloaded"
    assert refusal.retry_after_s
    assert len(handle.calls) == 1


def test_a_refusal_is_an_answer() -> None:
    refusal = Refusal("invalid", "width 7 is no multiple of 8")
    handle = Handle([refusal])
    assert events(handle) == [refusal]
    assert not handle.responses[0].cancelled


def test_who_closes_the_iterator_stops_the_work() -> None:
    handle = Handle([Progress(1, 4), Progress(2, 4), DRAWN])

    async def leave() -> None:
        stream = backend(handle)[0].draw(ORDER)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert handle.responses[0].cancelled
    assert len(handle.calls) == 1


def test_who_is_cancelled_stops_the_work() -> None:
    handle = Handle([asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        events(handle)
    assert handle.responses[0].cancelled


def test_questions_go_to_another_replica_too() -> None:
    stats = EngineStats(0, 0, 0, 0.0, 0)
    handle = Handle([ActorDiedError()], [stats])  # type: ignore[list-item]

    async def ask() -> tuple[EngineStats, float | None]:
        asked, registry = backend(handle)
        return await asked.stats(), registry.get_sample_value("nigaoe_retries_total")

    assert asyncio.run(ask()) == (stats, 1.0)
    with pytest.raises(EngineStoppedError, match="were lost"):
        asyncio.run(backend(Handle(*LOST_BY_ALL))[0].stats())
