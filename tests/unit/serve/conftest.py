import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from asked import picture_file, services_of
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from nigaoe.serve.config import Defaults, Limits, ServeConfig, Storage
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app
from nigaoe.serve.orders import Backend

Ask = Callable[[Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    torch.set_num_threads(1)
    path: Path = tmp_path_factory.mktemp("serve") / "adapter.safetensors"
    torch.manual_seed(0)
    save_adapter(IPAdapter.for_unet(load_base("toy/anime").unet, features={"image_embeds": 128}), path)
    return ServeConfig(
        bases=["toy/anime", "toy/photo"],
        image_encoder="toy/image_encoder",
        adapters={"demo": path},
        storage=Storage(objects=str(tmp_path_factory.mktemp("objects"))),
        defaults=Defaults(steps=2, guidance_scale=3.0),
        limits=Limits(body_mb=0.5, n=3, steps=60, width=192, height=192, image_pixels=1_000_000),
    )


@pytest.fixture(scope="session")
def replica(config: ServeConfig) -> Iterator[Replica]:
    torch.set_num_threads(1)
    replica = Replica(config)
    yield replica
    replica.close(5.0)


def asker(config: ServeConfig, backend: Backend) -> Ask:
    """Run a coroutine with a client of the application on a backend, all in this process."""

    def run(use: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            app = create_app(services_of(config, backend))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe", timeout=60) as client:
                return await use(client)

        return asyncio.run(main())

    return run


@pytest.fixture
def ask(replica: Replica, config: ServeConfig) -> Ask:
    """Ask the real replica."""
    return asker(config, replica)


@pytest.fixture(scope="session")
def face() -> bytes:
    return picture_file()
