import asyncio
import io
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from nigaoe.serve.config import Defaults, Limits, ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app

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
        defaults=Defaults(steps=2, guidance_scale=3.0),
        limits=Limits(body_mb=0.5, n=3, steps=60, width=192, height=192, image_pixels=1_000_000),
    )


@pytest.fixture(scope="session")
def replica(config: ServeConfig) -> Iterator[Replica]:
    torch.set_num_threads(1)
    replica = Replica(config)
    yield replica
    replica.close()


@pytest.fixture
def ask(replica: Replica, config: ServeConfig) -> Ask:
    """Run a coroutine with a client of the real application on the real replica, all in this process."""

    def run(use: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            transport = httpx.ASGITransport(create_app(lambda: replica, config), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe", timeout=60) as client:
                return await use(client)

        return asyncio.run(main())

    return run


@pytest.fixture(scope="session")
def face() -> bytes:
    gradient = Image.linear_gradient("L").resize((96, 80))
    picture = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()
