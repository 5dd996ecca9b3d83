"""An ingress to ask: real HTTP in front of the real replica, or of one that is slow, full or broken when told to be."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from nigaoe.serve.catalog import Catalog
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.orders import (
    Backend,
    Drawn,
    EngineStats,
    Event,
    Order,
    Partial,
    Picture,
    Progress,
    Refusal,
    Timings,
)
from nigaoe.serve.services import Services
from nigaoe.serve.stores.objects import Objects
from nigaoe.serve.watching.instruments import Instruments
from nigaoe.serve.watching.prometheus import PrometheusMeter


def picture_file(size: tuple[int, int] = (96, 80), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A gradient."""
    gradient = Image.linear_gradient("L").resize(size)
    picture = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


class Painter:
    """A backend without models: a picture's colour is its seed. It keeps what it was asked for, and who left."""

    def __init__(self, step_s: float = 0.0, ending: Refusal | Exception | None = None, silent_s: float = 0.0) -> None:
        self.step_s, self.ending, self.silent_s = step_s, ending, silent_s
        self.orders: list[Order] = []
        self.steps = 0
        self.active = 0
        self.left = 0

    async def draw(self, order: Order) -> AsyncIterator[Event]:
        self.orders.append(order)
        self.active += 1
        finished = False
        try:
            await asyncio.sleep(self.silent_s)
            if isinstance(self.ending, Exception):
                raise self.ending
            if self.ending is not None:
                finished = True
                yield self.ending
                return
            size = order.size or (64, 64)
            files = tuple(self._file(seed, size, order) for seed in order.seeds)
            shown = 0
            for step in range(order.steps):
                await asyncio.sleep(self.step_s)
                self.steps += 1
                yield Progress(step + 1, order.steps)
                if shown < order.partial_images * (step + 1) // order.steps:
                    for place, file in enumerate(files):
                        yield Partial(place, shown, file)
                    shown += 1
            finished = True
            yield Drawn(files, size, Timings(0.0, 0.0, self.step_s * order.steps, 0.0))
        finally:
            self.active -= 1
            self.left += not finished

    async def embed(self, pictures: tuple[Picture, ...]) -> bytes | Refusal:
        return b"embedding"

    async def stats(self) -> EngineStats:
        if isinstance(self.ending, Exception):
            raise self.ending
        await asyncio.sleep(self.silent_s)
        return EngineStats(self.active, 0, 0, 0.0, self.steps)

    @staticmethod
    def _file(seed: int, size: tuple[int, int], order: Order) -> bytes:
        buffer = io.BytesIO()
        image = Image.new("RGB", size, (seed % 256, seed // 256 % 256, 0))
        image.save(buffer, order.output_format.upper())
        return buffer.getvalue()


def services_of(config: ServeConfig, backend: Backend | Callable[[], Backend]) -> Services:
    """Services around a backend."""
    make = backend if callable(backend) else lambda: backend
    return Services(config, make, Catalog(config), Objects(config.storage), Instruments(PrometheusMeter()))


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application behind a real server on a free port; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, name="uvicorn", daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


def pixels_of(file: bytes) -> np.ndarray:
    """As numbers that can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
