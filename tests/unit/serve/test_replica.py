import asyncio
import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.errors import GenerationError, RequestError
from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.engine.models import load_models
from nigaoe.serve.engine.replica import Replica, encode
from nigaoe.serve.engine.thread import EngineStoppedError, EngineThread
from nigaoe.serve.http.guard import read_reference
from nigaoe.serve.orders import Drawn, Order, Refusal


@pytest.fixture
def order(face: bytes, config: ServeConfig) -> Order:
    return Order(
        base="toy/anime",
        prompt="a woman, anime",
        negative_prompt="",
        seeds=(1,),
        steps=40,
        guidance_scale=3.0,
        adapter="demo",
        adapter_scale=0.8,
        reference=read_reference(face, "face", config.limits),
    )


def pixels(drawn: Drawn) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(picture))).astype(int) for picture in drawn.pictures]


def wait_until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def calls(replica: Replica) -> int:
    return asyncio.run(replica.stats()).unet_calls


def test_a_request_joins_midway_and_changes_nobody(replica: Replica, order: Order) -> None:
    other = replace(order, seeds=(7, 8), adapter_scale=0.3, guidance_scale=1.0, steps=25, prompt="a man")

    async def overlapping() -> tuple[Drawn, Drawn]:
        before = (await replica.stats()).unet_calls
        first = asyncio.create_task(replica.draw(order))
        while (await replica.stats()).unet_calls < before + 3:
            await asyncio.sleep(0.001)
        assert not first.done()
        return await asyncio.gather(first, replica.draw(other))

    alone = [asyncio.run(replica.draw(order)), asyncio.run(replica.draw(other))]
    before = calls(replica)
    together = asyncio.run(overlapping())
    shared = calls(replica) - before
    # Had they been stepped apart, it would be 40 + 25.
    assert 40 <= shared < 60
    for expected, got in zip(alone, together, strict=True):
        differences = [np.abs(a - b).max() for a, b in zip(pixels(expected), pixels(got), strict=True)]
        assert max(differences) <= 1


def test_a_cancelled_request_leaves(replica: Replica, order: Order) -> None:
    endless = replace(order, steps=1000)

    async def abandon() -> None:
        task = asyncio.create_task(replica.draw(endless))
        while (await replica.stats()).active_rows == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(abandon())
    wait_until(lambda: asyncio.run(replica.stats()).active_rows == 0, timeout_s=5)
    assert len(asyncio.run(replica.draw(replace(order, steps=2))).pictures) == 1


def test_bases_are_stepped_in_turn(replica: Replica, order: Order) -> None:
    done: list[str] = []

    async def draw(base: str, steps: int) -> None:
        await replica.draw(replace(order, base=base, steps=steps))
        done.append(base)

    async def both() -> None:
        await asyncio.gather(draw("toy/anime", 40), draw("toy/photo", 10))

    before = calls(replica)
    asyncio.run(both())
    assert done == ["toy/photo", "toy/anime"]
    assert calls(replica) - before == 50


def test_pictures_come_in_the_order_of_seeds(replica: Replica, order: Order) -> None:
    both = pixels(asyncio.run(replica.draw(replace(order, seeds=(3, 4), steps=3))))
    for seed, picture in zip((3, 4), both, strict=True):
        alone = pixels(asyncio.run(replica.draw(replace(order, seeds=(seed,), steps=3))))[0]
        assert np.abs(picture - alone).max() <= 1


def test_scale_zero_ignores_the_picture(replica: Replica, order: Order) -> None:
    without = replace(order, reference=None, adapter=None, steps=3)
    a, b, c = (
        pixels(asyncio.run(replica.draw(o)))[0]
        for o in (replace(order, adapter_scale=0.0, steps=3), without, replace(order, steps=3))
    )
    assert np.abs(a - b).max() <= 1
    assert np.abs(c - b).max() > 1


def test_an_impossible_size_is_refused_and_the_engine_goes_on(replica: Replica, order: Order) -> None:
    odd = replace(order, size=(97, 96))
    with pytest.raises(RequestError, match="width 97"):
        asyncio.run(replica.draw(odd))
    refusal = asyncio.run(replica.draw_or_refuse(odd))
    assert isinstance(refusal, Refusal)
    assert "width 97" in refusal.reason
    assert asyncio.run(replica.draw(replace(order, steps=1, size=(64, 96)))).size == (64, 96)


def test_a_failing_request_fails_alone(replica: Replica, order: Order) -> None:
    with pytest.raises(KeyError):
        asyncio.run(replica.draw(replace(order, adapter="gone", adapter_scale=0.123)))
    replica.check_health()


def test_a_failing_step_ends_the_thread_and_tells_everyone(config: ServeConfig, order: Order) -> None:
    models = load_models(config)
    base = models.bases["toy/anime"]
    thread = EngineThread(replace(models, bases={"toy/anime": base}), EngineConfig(runner="eager"))
    # A step needs the numbers of the UNet, and from now on some are lacking, for whatever request.
    base.unet.time_embedding.to("meta")
    waiting = [thread.submit(order), thread.submit(order)]
    for future in waiting:
        with pytest.raises(EngineStoppedError):
            future.result(timeout=30)
    wait_until(lambda: not thread.is_alive)
    with pytest.raises(EngineStoppedError):
        thread.submit(order).result(timeout=5)


def test_an_order_whose_pictures_all_fail_at_once_fails_alone(replica: Replica, order: Order) -> None:
    """Guidance of 1e30 ends in numbers that are none; both pictures do so in the same step."""

    async def both() -> Drawn:
        bad = asyncio.create_task(replica.draw(replace(order, seeds=(1, 2), steps=2, guidance_scale=1e30)))
        good = asyncio.create_task(replica.draw(replace(order, steps=6)))
        with pytest.raises(GenerationError, match="ran into numbers that are none"):
            await bad
        return await good

    assert len(asyncio.run(both()).pictures) == 1
    replica.check_health()


def test_closing_tells_who_waits(config: ServeConfig, order: Order) -> None:
    replica = Replica(config.model_copy(update={"bases": ["toy/anime"]}))
    failed = threading.Event()

    async def wait() -> None:
        with pytest.raises(EngineStoppedError):
            await replica.draw(replace(order, steps=1000))
        failed.set()

    waiter = threading.Thread(target=lambda: asyncio.run(wait()))
    waiter.start()
    wait_until(lambda: asyncio.run(replica.stats()).active_rows > 0)
    replica.close()
    waiter.join(10)
    assert failed.is_set()
    with pytest.raises(EngineStoppedError):
        replica.check_health()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_are_encoded(kind: str) -> None:
    data = encode(Image.new("RGB", (16, 16)), kind, 80)  # type: ignore[arg-type]
    assert Image.open(io.BytesIO(data)).format == kind.upper()
