"""Large bodies to temporary files: bounded while they come, in size and in patience."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request
from starlette.requests import ClientDisconnect

from nigaoe.serve.config import Limits
from nigaoe.serve.http.problems import Problem

LEAST_BYTES_PER_S = 50_000
"""Who sends less, once `limits.body_s` are over, only wants to keep us waiting."""
_CLOSE = {"Connection": "close"}
"""What is left of a body must not be taken for the next request."""


@asynccontextmanager
async def spooled(request: Request, limits: Limits, max_mb: float) -> AsyncIterator[Path]:
    """The body of a request as a file that is removed afterwards.

    Raises:
        Problem: 413 for too much of it, 408 for too slow, 400 for less than was announced.
    """
    most, declared = int(max_mb * 1e6), request.headers.get("content-length", "")
    message = f"the file is larger than the {max_mb:g} MB allowed; send a smaller one"
    too_large = Problem(413, "request_too_large", message, headers=_CLOSE)
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    with tempfile.TemporaryDirectory(prefix="nigaoe-upload-") as folder:
        path = Path(folder) / "upload"
        began, taken = asyncio.get_running_loop().time(), 0
        with path.open("wb") as file:
            async for part in _patient(request, limits):
                taken += len(part)
                if taken > most:
                    raise too_large
                seconds = asyncio.get_running_loop().time() - began
                if seconds > limits.body_s and taken < LEAST_BYTES_PER_S * (seconds - limits.body_s):
                    raise _too_slow(limits)
                # On a thread: the disk may be slower than the network.
                await asyncio.to_thread(file.write, part)
        yield path


async def _patient(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(limits.body_s):
                part = await anext(stream, None)
        except TimeoutError:
            raise _too_slow(limits) from None
        except ClientDisconnect:
            raise Problem(400, "incomplete_body", "the connection was closed before the file was whole") from None
        if part is None:
            return
        if part:
            yield part


def _too_slow(limits: Limits) -> Problem:
    message = f"nothing, or next to nothing, came for {limits.body_s:g} s; send it again"
    return Problem(408, "request_timeout", message, headers=_CLOSE)
