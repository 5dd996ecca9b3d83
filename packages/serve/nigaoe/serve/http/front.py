"""What every request passes first and last: its id, its caller, bounds of its head, its line in the log."""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nigaoe.serve.http.access import UNKNOWN, Caller, Keys, Rates
from nigaoe.serve.http.problems import Problem, internal_problem
from nigaoe.serve.services import Services
from nigaoe.serve.watching.logs import bound

log = logging.getLogger(__name__)

MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 * 1024

GUARDED = "/v1/"
"""Below it are all routes that need a key where there are keys."""
FREE = "/v1/files/"
"""But for these: their names cannot be guessed, and an `<img>` sends no key."""

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_OF_ANSWERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}
"""Not of pages: the documentation and the playground run scripts."""


class Front:
    """An ASGI application around the real one. Pure ASGI: nothing stands between a route and who hangs up."""

    def __init__(self, app: ASGIApp, services: Services, keys: Keys, rates: Rates) -> None:
        self._app, self._services, self._keys, self._rates = app, services, keys, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
        state = scope.setdefault("state", {})
        state["request_id"], state["caller"] = request_id, UNKNOWN
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        outcome = _Outcome(request_id, path, send)
        began = time.perf_counter()
        with bound(request_id):
            try:
                await self._answer(scope, receive, outcome, headers, path)
            except ClientDisconnect:
                log.info("client hung up", extra={"path": path[:200]})
            except Exception as error:
                log.error("request failed", exc_info=error, extra={"path": path[:200]})
                await outcome.fail(scope, receive, internal_problem())
            finally:
                self._report(scope, outcome, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, outcome: "_Outcome", headers: Headers, path: str) -> None:
        try:
            _require_small_head(scope)
            if path.startswith(GUARDED) and not path.startswith(FREE):
                caller = self._keys.caller(headers.get("authorization"))
                scope["state"]["caller"] = caller
                await self._rates.require(caller, scope["client"][0] if scope.get("client") else "")
        except Problem as problem:
            await outcome.fail(scope, receive, problem)
            return
        await self._app(scope, receive, outcome.send)

    def _report(self, scope: Scope, outcome: "_Outcome", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        caller: Caller = scope["state"]["caller"]
        # nginx's number for a client that went before there was an answer.
        status = outcome.status or 499
        self._services.instruments.request(route, status, seconds, caller.name)
        fields = {"method": scope["method"], "route": route, "status": status, "caller": caller.name}
        log.info("request answered", extra=fields | {"seconds": round(seconds, 4), "bytes": outcome.sent_bytes})


class _Outcome:
    """Passes an answer on, with the headers that all have, and remembers what it was."""

    def __init__(self, request_id: str, path: str, send: Send) -> None:
        self.status: int | None = None
        self.sent_bytes = 0
        self._headers = _ALWAYS | {"x-request-id": request_id} | (_OF_ANSWERS if path.startswith(GUARDED) else {})
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive, problem: Problem) -> None:
        """Answer with a problem; an answer that has begun cannot be taken back."""
        if self.status is None:
            await problem.answer()(scope, receive, self.send)


def _require_small_head(scope: Scope) -> None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if len(headers) > MOST_HEADERS or size > MOST_HEADER_BYTES:
        message = f"the request has {len(headers)} headers of {size} bytes; send at most {MOST_HEADERS} of 32 KiB"
        raise Problem(431, "request_head_too_large", message, headers={"Connection": "close"})
