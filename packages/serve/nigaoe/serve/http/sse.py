"""Answers that come as server-sent events: kept alive while nothing happens, ended when the client hangs up."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nigaoe.serve.http.drawing import events, while_connected
from nigaoe.serve.http.problems import Problem, internal_problem
from nigaoe.serve.orders import Drawn, Order, Partial, Progress
from nigaoe.serve.services import Services

log = logging.getLogger(__name__)

FIRST_EVENT_S = 2.0
"""How long a refusal may take and still be an answer with a status of its own, which clients know how to retry."""
KEEP_ALIVE_S = 15.0
"""Proxies end connections on which nothing is said."""

_KEEP_ALIVE = b": still here\n\n"

Told = Progress | Partial | Drawn
Tell = Callable[[Told], Iterable[Mapping[str, Any]]]
"""What is said of an event: objects with a `type`."""


async def streamed(request: Request, services: Services, order: Order, tell: Tell) -> Response:
    """Draw an order and tell what happens, as it happens.

    Raises:
        Problem: It was refused before there was anything to tell.
    """
    feed = _Feed(events(services, order))
    try:
        first = await while_connected(request.receive, feed.within(FIRST_EVENT_S))
    except BaseException:
        await feed.aclose()
        raise
    return EventStream(_encoded(feed, first, tell))


class EventStream(Response):
    """An answer of events. Unlike Starlette's own it hears of a client that hangs up whatever the server's version."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks
        self.status_code, self.background = 200, None
        # nginx would hold events back until it has a buffer full of them.
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Without a length, which nobody knows."""
        pairs = {"content-type": f"{self.media_type}; charset=utf-8"} | dict(headers or {})
        self.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await while_connected(receive, self._stream(send))

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Feed:
    """Events that may be waited for with a limit; a wait that ends early loses nothing."""

    def __init__(self, source: AsyncGenerator[Told, None]) -> None:
        self._source = source
        self._next: asyncio.Future[Told] | None = None

    async def within(self, seconds: float) -> Told | None:
        """The next event, or None if it has not come yet."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._source))
        done, _ = await asyncio.wait({self._next}, timeout=seconds)
        if not done:
            return None
        event, self._next = self._next, None
        return event.result()

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._source.aclose()


async def _encoded(feed: _Feed, first: Told | None, tell: Tell) -> AsyncGenerator[bytes, None]:
    async with aclosing(feed):
        event = first
        try:
            while True:
                if event is None:
                    yield _KEEP_ALIVE
                else:
                    for said in tell(event):
                        yield _event(said)
                    if isinstance(event, Drawn):
                        return
                event = await feed.within(KEEP_ALIVE_S)
        except Problem as problem:
            yield _event({"type": "error", **problem.body.model_dump()})
        except Exception as error:
            log.error("stream failed", exc_info=error)
            yield _event({"type": "error", **internal_problem().body.model_dump()})


def _event(said: Mapping[str, Any]) -> bytes:
    # JSON has no line breaks of its own.
    return f"event: {said['type']}\ndata: {json.dumps(said, separators=(',', ':'))}\n\n".encode()
