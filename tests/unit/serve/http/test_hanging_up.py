"""Clients that go, that are slow, that say nothing: over real sockets, in front of the real replica."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from asked import Painter, services_of, serving, wait_until
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app
from nigaoe.serve.orders import EngineStats

GENERATIONS, EDITS, GENERATE = "/v1/images/generations", "/v1/images/edits", "/v1/generate"


@pytest.fixture(scope="module")
def server(config: ServeConfig, replica: Replica) -> Iterator[str]:
    with serving(create_app(services_of(config, replica))) as url:
        yield url


def stats(replica: Replica) -> EngineStats:
    return asyncio.run(replica.stats())


def request_of(kind: str, face: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {"prompt": "p", "steps": 60, "n": 3}
    if kind == "form":
        return {"url": EDITS, "files": {"image": ("a.jpg", face)}, "data": {k: str(v) for k, v in said.items()}}
    url = GENERATE if kind.startswith("native") else GENERATIONS
    return {"url": url, "json": said | ({"stream": True, "partial_images": 1} if kind.endswith("stream") else {})}


@pytest.mark.parametrize("kind", ["plain", "form", "stream", "native", "native stream"])
def test_who_hangs_up_gives_the_rows_back_at_once(server: str, replica: Replica, face: bytes, kind: str) -> None:
    wait_until(lambda: stats(replica).pending_row_steps == 0)

    async def hang_up() -> None:
        async with httpx.AsyncClient(base_url=server, timeout=60) as client:
            asking = asyncio.ensure_future(client.post(**request_of(kind, face)))
            while not stats_now().active_rows:
                await asyncio.sleep(0.002)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def stats_now() -> EngineStats:
        return replica._thread.stats()

    before = stats(replica).unet_calls
    asyncio.run(hang_up())
    wait_until(lambda: stats(replica).active_rows == 0 and stats(replica).pending_row_steps == 0)
    # 60 steps of 3 rows would have been many more.
    assert stats(replica).unet_calls - before < 40


def test_who_hangs_up_while_a_stream_is_silent(config: ServeConfig) -> None:
    painter = Painter(silent_s=60)
    with serving(create_app(services_of(config, painter))) as url:
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url + GENERATE, json={"prompt": "p", "stream": stream}, timeout=1.5)
            wait_until(lambda: painter.active == 0)
    assert (len(painter.orders), painter.left) == (2, 2)


def test_who_hangs_up_before_the_body_has_come(config: ServeConfig) -> None:
    painter = Painter()
    with serving(create_app(services_of(config, painter))) as url:
        for head in (b"Content-Type: application/json", b"Content-Type: multipart/form-data; boundary=x"):
            with connection(url) as sock:
                path = GENERATIONS if b"json" in head else EDITS
                sock.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n".encode() + head)
                sock.sendall(b'\r\n\r\n{"prompt"')
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert painter.orders == []


def test_bodies_that_drip_are_given_up(config: ServeConfig) -> None:
    limits = config.limits.model_copy(update={"body_s": 0.5})
    with serving(create_app(services_of(config.model_copy(update={"limits": limits}), Painter()))) as url:
        part = '--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
        for path, kind, began_with in (
            (GENERATIONS, "application/json", ""),
            (EDITS, "multipart/form-data; boundary=x", part),
        ):
            with connection(url) as sock:
                head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 999\r\n\r\n"
                sock.sendall((head + began_with).encode())
                began = time.monotonic()
                answer = b""
                while b"}}" not in answer and time.monotonic() - began < 10:
                    sock.sendall(b" ")
                    sock.settimeout(0.1)
                    try:
                        answer += sock.recv(65536)
                    except TimeoutError:
                        continue
                assert answer.startswith(b"HTTP/1.1 408")
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
                assert b"connection: close" in answer.lower()
                assert time.monotonic() - began < 5


def test_a_silent_stream_is_kept_alive(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nigaoe.serve.http.sse.FIRST_EVENT_S", 0.05)
    monkeypatch.setattr("nigaoe.serve.http.sse.KEEP_ALIVE_S", 0.05)
    painter = Painter(silent_s=0.5)
    with serving(create_app(services_of(config, painter))) as url:
        text = httpx.post(url + GENERATE, json={"prompt": "p", "stream": True, "steps": 1}).text
    assert text.count(": still here\n\n") >= 3
    assert "event: completed" in text


def connection(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)
