"""Adapters over HTTP: upload, use, replace, delete; and everything that is no adapter."""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from nigaoe.serve.config import Access, KeyConfig, Storage
from nigaoe.serve.http import uploads

from .conftest import Server

PROMPT = {"prompt": "a person", "steps": 2, "seed": 1, "size": "64x64"}


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def test_an_adapter_is_uploaded_used_replaced_and_deleted(server: Server, upload: Path, picture: str) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        body = {**PROMPT, "image_prompts": [{"adapter": "mine", "images": [picture]}]}
        assert problem(await client.post("/v1/generate", json=body), 404) == "model_not_found"
        made = await client.put("/v1/adapters/mine", content=upload.read_bytes())
        assert made.status_code == 201, made.text
        card = made.json()
        assert card["sha256"] == hashlib.sha256(upload.read_bytes()).hexdigest()
        assert (await client.get("/v1/adapters/mine")).json() == card
        listed = (await client.get("/v1/adapters")).json()
        assert [one["name"] for one in listed["data"]] == ["demo", "mine"]
        assert "mine" in [one["id"] for one in (await client.get("/v1/models")).json()["data"]]
        drawn = await client.post("/v1/generate", json=body)
        assert drawn.status_code == 200, drawn.text
        assert drawn.json()["parameters"]["image_prompts"][0]["adapter_sha256"] == card["sha256"]
        # Another ingress of the server has it too, and the same file may come again.
        async with server.client() as other:
            assert (await other.put("/v1/adapters/mine", content=upload.read_bytes())).status_code == 201
            assert (await other.delete("/v1/adapters/mine")).json() == {
                "object": "adapter",
                "name": "mine",
                "deleted": True,
            }
            assert problem(await other.post("/v1/generate", json=body), 404) == "model_not_found"
        assert problem(await client.delete("/v1/adapters/mine"), 404) == "model_not_found"

    server.ask(use)


def test_an_order_is_drawn_with_what_was_deleted_meanwhile(server: Server, upload: Path, picture: str) -> None:
    """Deleted after it was found and before it is in any replica: its version is still there."""

    async def use() -> None:
        services = server.services()
        async with server.client(services) as client:
            await client.put("/v1/adapters/mine", content=upload.read_bytes())
            body = {**PROMPT, "image_prompts": [{"adapter": "mine", "images": [picture]}]}
            expected = (await client.post("/v1/generate", json=body)).json()["images"]
            found = services.catalog.find
            gone = asyncio.Event()

            async def then_gone(name: str | None) -> Any:
                at = await found(name)
                if not gone.is_set():
                    gone.set()
                    await services.catalog.delete("mine")
                return at

            services.catalog.find = then_gone  # type: ignore[method-assign]
            answer = await client.post("/v1/generate", json=body)
            assert gone.is_set()
            assert answer.status_code == 200, answer.text
            assert answer.json()["images"] == expected

    asyncio.run(use())


def _header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"PK\x03\x04" + b"\x00" * 100,
        b"\x80\x04\x95" + b"." * 100,
        b"\xff" * 64,
        (2**63).to_bytes(8, "little") + b"{}",
        _header({"image_proj.proj.weight": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}),
        _header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\xc0\x7f"),
        _header({"../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        _header([[]]),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
    ],
)
def test_what_is_no_adapter_is_refused(server: Server, content: bytes) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        assert problem(await client.put("/v1/adapters/mine", content=content), 400) == "invalid_value"
        assert [one["name"] for one in (await client.get("/v1/adapters")).json()["data"]] == ["demo"]

    server.ask(use)
    registry = server.config.storage.registry
    assert registry is not None
    assert not Path(registry).exists()


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("..%2F..%2Fx", 404),
        ("%2e%2e", 400),
        (".hidden", 400),
        ("a%00b", 400),
        ("a%0Ab", 400),
        ("a" * 101, 400),
        ("%F0%9F%98%80", 400),
        ("s3:%2F%2Fbucket", 404),
        ("demo", 409),
    ],
)
def test_names_that_are_none(server: Server, upload: Path, name: str, status: int) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        for ask in (client.put(f"/v1/adapters/{name}", content=upload.read_bytes()),):
            problem(await ask, status)
        answer = await client.delete(f"/v1/adapters/{name}")
        assert answer.status_code == (409 if name == "demo" else 404), answer.text

    server.ask(use)


def test_files_are_bounded_while_they_come(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b"\0" * (1 << 20)

    async def use(client: httpx.AsyncClient) -> None:
        assert problem(await client.put("/v1/adapters/mine", content=endless()), 413) == "request_too_large"
        huge = {"content-length": str(10**15)}
        assert problem(await client.put("/v1/adapters/mine", content=b"x", headers=huge), 413) == "request_too_large"

    server.ask(use)
    assert sent < 25e6
    assert not list(temporary.iterdir())


def test_patience_is_bounded_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "LEAST_BYTES_PER_S", 1000)
    limits = server.config.limits.model_copy(update={"body_s": 0.3})
    hasty = replace(server, config=server.config.model_copy(update={"limits": limits}))

    async def slowly(seconds: float) -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(seconds)
            yield b"\0"

    async def use(client: httpx.AsyncClient) -> None:
        for seconds in (0.05, 5.0):
            async with asyncio.timeout(4):
                answer = await client.put("/v1/adapters/mine", content=slowly(seconds))
            assert problem(answer, 408) == "request_timeout"
            assert answer.headers["connection"] == "close"

    hasty.ask(use)


def test_only_managers_manage(server: Server, upload: Path) -> None:
    keys = [
        KeyConfig(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), may_manage=name == "manager")
        for name in ("user", "manager")
    ]
    guarded = replace(server, config=server.config.model_copy(update={"access": Access(keys=keys)}))

    async def use(client: httpx.AsyncClient) -> None:
        def key(name: str) -> dict[str, str]:
            return {"authorization": f"Bearer {name}"}

        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            read += 1
            yield upload.read_bytes()

        assert (await client.put("/v1/adapters/mine", content=body())).status_code == 401
        answer = await client.put("/v1/adapters/mine", content=body(), headers=key("user"))
        assert problem(answer, 403) == "insufficient_permissions"
        assert read == 0
        assert (await client.put("/v1/adapters/mine", content=body(), headers=key("manager"))).status_code == 201
        assert (await client.get("/v1/adapters/mine", headers=key("user"))).status_code == 200
        assert problem(await client.delete("/v1/adapters/mine", headers=key("user")), 403)
        assert (await client.delete("/v1/adapters/mine", headers=key("manager"))).status_code == 200

    guarded.ask(use)


def test_a_server_without_a_registry_says_so(server: Server, upload: Path) -> None:
    alone = replace(server, config=server.config.model_copy(update={"storage": Storage(objects="unused")}))

    async def use(client: httpx.AsyncClient) -> None:
        assert problem(await client.put("/v1/adapters/mine", content=upload.read_bytes()), 400) == "no_registry"
        assert problem(await client.delete("/v1/adapters/mine"), 400) == "no_registry"

    alone.ask(use)
