from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import read_adapter_file, save_adapter
from nigaoe.core.bases import Base
from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import AdapterAt
from served import adapter_file


@pytest.fixture(scope="session")
def trained() -> AdapterAt:
    """The adapter of the toy world."""
    return adapter_file(read_adapter_file("toy/adapter").path, "trained")


@pytest.fixture(scope="session")
def untrained(adapter: IPAdapter, tmp_path_factory: pytest.TempPathFactory) -> AdapterAt:
    """An adapter of random weights, that no config names."""
    path: Path = tmp_path_factory.mktemp("untrained") / "adapter.safetensors"
    save_adapter(adapter, path)
    return adapter_file(path, "untrained")


@pytest.fixture(scope="session")
def engine_config(trained: AdapterAt) -> ServeConfig:
    torch.set_num_threads(1)
    return ServeConfig(
        bases=["toy/anime", "toy/photo"],
        image_encoder="toy/image_encoder",
        adapters={"trained": "toy/adapter"},
        engine=EngineConfig(max_rows=8, max_active_rows=12),
    )


@pytest.fixture(scope="session")
def engine_replica(engine_config: ServeConfig) -> Iterator[Replica]:
    replica = Replica(engine_config)
    yield replica
    replica.close(5.0)


@pytest.fixture(scope="session")
def sizes(base: Base, adapter: IPAdapter) -> tuple[int, int]:
    """Bytes of a base and of an adapter of the toy world, in memory."""
    from nigaoe.serve.engine.loading import adapter_bytes, base_bytes

    return base_bytes(base, EngineConfig()), adapter_bytes(adapter)
