"""A server with a registry and a store, in one process: the real application on a real replica."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.serve.catalog import Catalog
from nigaoe.serve.config import Defaults, Limits, ServeConfig, Storage
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app
from nigaoe.serve.orders import Backend
from nigaoe.serve.services import Services
from nigaoe.serve.stores.objects import Objects
from nigaoe.serve.watching.instruments import Instruments
from nigaoe.serve.watching.prometheus import PrometheusMeter

Use = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


@dataclass(frozen=True)
class Server:
    """A config and what draws for it; every `client` is another ingress of the same server."""

    config: ServeConfig
    backend: Backend

    def services(self, backend: Backend | None = None) -> Services:
        """Of a new ingress."""
        return Services(
            config=self.config,
            backend=lambda: backend or self.backend,
            catalog=Catalog(self.config),
            objects=Objects(self.config.storage),
            instruments=Instruments(PrometheusMeter()),
        )

    @asynccontextmanager
    async def client(self, services: Services | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """A client of a new ingress, which lives as long."""
        app = create_app(services or self.services())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://nigaoe", timeout=60) as client,
        ):
            yield client

    def ask(self, use: Use) -> Any:
        """Run a coroutine with a client."""

        async def main() -> Any:
            async with self.client() as client:
                return await use(client)

        return asyncio.run(main())


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, adapter: IPAdapter) -> Path:
    """The adapter of the config."""
    path: Path = tmp_path_factory.mktemp("demo") / "demo.safetensors"
    save_adapter(adapter, path, dtype=torch.bfloat16)
    return path


def config_at(folder: Path, demo: Path, **more: Any) -> ServeConfig:
    values: dict[str, Any] = {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"demo": demo},
        "defaults": Defaults(steps=2, guidance_scale=3.0),
        "limits": Limits(n=3, steps=400, width=192, height=192, adapter_mb=20),
        "storage": Storage(registry=str(folder / "registry"), objects=str(folder / "objects")),
    }
    return ServeConfig(**(values | more))


@pytest.fixture(scope="session")
def replica(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Iterator[Replica]:
    torch.set_num_threads(1)
    replica = Replica(config_at(tmp_path_factory.mktemp("replica"), demo))
    yield replica
    replica.close()


@pytest.fixture
def server(tmp_path: Path, demo: Path, replica: Replica) -> Server:
    return Server(config_at(tmp_path, demo), replica)


@pytest.fixture
def upload(tmp_path: Path, adapter: IPAdapter) -> Path:
    """A file that may be uploaded."""
    path = tmp_path / "upload.safetensors"
    save_adapter(adapter, path)
    return path


@pytest.fixture(scope="session")
def picture() -> str:
    """A photograph of sorts, as base64."""
    gradient = Image.linear_gradient("L").resize((96, 80))
    buffer = io.BytesIO()
    Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()
