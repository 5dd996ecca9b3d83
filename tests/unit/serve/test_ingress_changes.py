"""The ingress as Ray Serve makes it, in this process: what changes while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import ServeConfig, Storage
from nigaoe.serve.deployments.ingress import Ingress, Replaceable
from nigaoe.serve.watching.tracing import NoTracing


class NoEngine:
    """A handle that nobody asks anything of."""

    def options(self, stream: bool) -> "NoEngine":
        return self


def test_changed_limits_hold_for_the_next_request(tmp_path: Path) -> None:
    config = ServeConfig(bases=["toy/anime"], storage=Storage(objects=str(tmp_path)))

    async def ask(client: httpx.AsyncClient, steps: int) -> str:
        body = {"prompt": "p", "steps": steps, "size": "7x7"}
        return str((await client.post("/v1/generate", json=body)).json()["error"]["message"])

    async def main() -> None:
        ingress = Ingress(config, NoEngine())  # type: ignore[arg-type]
        transport = httpx.ASGITransport(ingress.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe") as client:
            await ingress.reconfigure({})
            assert "300" in await ask(client, 300)
            await ingress.reconfigure({"limits": {"steps": 100}})
            assert "150" in await ask(client, 150)
            # What is no longer changed is as it was.
            await ingress.reconfigure({})
            assert "150" not in await ask(client, 150)
            with pytest.raises(ConfigError, match="needs a restart"):
                await ingress.reconfigure({"bases": ["toy/photo"]})
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(main())


def test_lifespans_of_all_applications_begin_and_end() -> None:
    told: list[str] = []

    def application(name: str) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            told.append(f"{name} begins")
            yield
            told.append(f"{name} ends")

        app = FastAPI(lifespan=lifespan)

        @app.get("/")
        async def root() -> str:
            return name

        return app

    async def main() -> None:
        front = Replaceable(application("old"), NoTracing())
        queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        sent: list[str] = []

        async def send(message: object) -> None:
            assert isinstance(message, dict)
            sent.append(message["type"])

        running = asyncio.create_task(front({"type": "lifespan", "state": {}}, queue.get, send))
        await queue.put({"type": "lifespan.startup"})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://x") as client:
            assert (await client.get("/")).json() == "old"
            await front.replace(application("new"))
            assert (await client.get("/")).json() == "new"
        await queue.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(running, 10)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(main())
    assert sorted(told) == ["new begins", "new ends", "old begins", "old ends"]
