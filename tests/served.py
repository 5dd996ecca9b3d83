"""Orders for a replica, and what comes of them."""

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nigaoe.core.toy.people import sample_identity_of, sample_scene
from nigaoe.core.toy.render import render
from nigaoe.core.transfers import sha256_of
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import AdapterAt, Drawn, Event, ImagePromptOrder, Order, Partial, Picture, Refusal


def person(number: int, side: int = 96) -> Picture:
    """A photo of somebody of the toy world."""
    import random

    rng = random.Random(f"served/{number}")
    image = render(sample_identity_of("heldout", rng), sample_scene(rng), "photo")
    return Picture(np.asarray(image.resize((side, side)).convert("RGB")))


def adapter_file(path: Path, name: str = "demo") -> AdapterAt:
    """The version of an adapter that a file holds now."""
    return AdapterAt(name, sha256_of(str(path)), str(path))


def order_of(at: AdapterAt | None = None, **changes: Any) -> Order:
    """An order, with an image prompt if there is an adapter for it."""
    prompts = () if at is None else (ImagePromptOrder(adapter=at, pictures=(person(1),), scale=0.8),)
    values: dict[str, Any] = {
        "id": "request",
        "base": "toy/anime",
        "prompt": "a woman, anime",
        "seeds": (1,),
        "steps": 4,
        "guidance_scale": 3.0,
        "image_prompts": prompts,
    }
    return Order(**(values | changes))


async def events_of(replica: Replica, order: Order) -> list[Event]:
    """All that is heard of an order."""
    async with aclosing(replica.draw(order)) as events:  # type: ignore[type-var]
        return [event async for event in events]


async def last_of(replica: Replica, order: Order) -> Drawn | Refusal:
    """How an order ends."""
    last = (await events_of(replica, order))[-1]
    assert isinstance(last, Drawn | Refusal)
    return last


def draw(replica: Replica, *orders: Order) -> list[Drawn | Refusal]:
    """How orders end that are given all at once."""

    async def all_of() -> list[Drawn | Refusal]:
        return await asyncio.gather(*(last_of(replica, order) for order in orders))

    return asyncio.run(all_of())


def drawn(replica: Replica, order: Order) -> Drawn:
    """An order drawn to its end."""
    (ended,) = draw(replica, order)
    assert isinstance(ended, Drawn), ended
    return ended


def refused(replica: Replica, order: Order) -> Refusal:
    """Why an order is not drawn."""
    (ended,) = draw(replica, order)
    assert isinstance(ended, Refusal)
    return ended


def pixels(files: Drawn | Sequence[Partial]) -> list[np.ndarray]:
    """Of every picture, as numbers that can be subtracted."""
    pictures = files.pictures if isinstance(files, Drawn) else [file.picture for file in files]
    return [np.asarray(Image.open(io.BytesIO(picture))).astype(int) for picture in pictures]


def difference(some: Drawn, others: Drawn) -> int:
    """The largest between two orders' pictures, in grey levels."""
    return max(int(np.abs(a - b).max()) for a, b in zip(pixels(some), pixels(others), strict=True))


def wait_until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something that other threads bring about."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)
