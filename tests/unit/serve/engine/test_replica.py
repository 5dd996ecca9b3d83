"""A replica draws for many at once, and each gets what it gets alone."""

import asyncio
import threading
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.engine.residency import Residency
from nigaoe.serve.engine.thread import EngineThread
from nigaoe.serve.orders import AdapterAt, Drawn, EngineStoppedError, ImagePromptOrder, Order, Progress, Refusal
from served import difference, draw, drawn, events_of, last_of, order_of, person, pixels, refused, wait_until


def calls(replica: Replica) -> int:
    return asyncio.run(replica.stats()).unet_calls


async def drawing(replica: Replica, order: Order) -> "asyncio.Task[Drawn | Refusal]":
    """An order that is being stepped when this returns."""
    before = (await replica.stats()).unet_calls
    task = asyncio.create_task(last_of(replica, order))
    while (await replica.stats()).unet_calls < before + 3:
        await asyncio.sleep(0.001)
    assert not task.done()
    return task


def test_an_order_joins_midway_and_changes_nobody(engine_replica: Replica, trained: AdapterAt) -> None:
    order = order_of(trained, steps=40)
    other = order_of(trained, seeds=(7, 8), guidance_scale=1.0, steps=25, prompt="a man")

    async def overlapping() -> tuple[Drawn | Refusal, Drawn | Refusal]:
        first = await drawing(engine_replica, order)
        return await asyncio.gather(first, last_of(engine_replica, other))

    alone = [drawn(engine_replica, order), drawn(engine_replica, other)]
    before = calls(engine_replica)
    together = asyncio.run(overlapping())
    # Had they been stepped apart, it would be 40 + 25.
    assert 40 <= calls(engine_replica) - before < 60
    for expected, got in zip(alone, together, strict=True):
        assert isinstance(got, Drawn)
        assert difference(expected, got) <= 1


def test_users_with_other_faces_adapters_and_seeds_get_what_they_get_alone(
    engine_replica: Replica, trained: AdapterAt, untrained: AdapterAt
) -> None:
    def of(at: AdapterAt, who: int, **changes: Any) -> Order:
        prompt = ImagePromptOrder(adapter=at, pictures=(person(who),), scale=0.3 + 0.2 * who)
        return order_of(seeds=(who,), steps=4 + who, image_prompts=(prompt,), **changes)

    orders = [
        of(trained, 1),
        of(untrained, 2, prompt="a man", sampler="euler_a"),
        of(trained, 3, guidance_scale=1.0, sampler="dpmpp_2m_karras"),
        of(untrained, 4, size=(64, 96), sampler="lcm"),
        replace(of(trained, 1), base="toy/photo"),
        order_of(init=person(5), strength=0.5, steps=9),
    ]
    alone = [drawn(engine_replica, order) for order in orders]
    for got, expected in zip(draw(engine_replica, *orders), alone, strict=True):
        assert isinstance(got, Drawn)
        assert difference(got, expected) <= 1


def test_a_closed_order_leaves_before_the_next_step(engine_replica: Replica) -> None:
    endless = order_of(steps=1000)

    async def abandon() -> int:
        async with aclosing(engine_replica.draw(endless)) as events:  # type: ignore[type-var]
            event = await anext(events)
            assert isinstance(event, Progress)
            assert event.steps == 1000
            assert 0 < event.step < 1000
        closed_at = (await engine_replica.stats()).unet_calls
        while (await engine_replica.stats()).active_rows:
            await asyncio.sleep(0.0005)
        return (await engine_replica.stats()).unet_calls - closed_at

    # One may be under way while it is closed, and one more finish between the two looks.
    assert asyncio.run(abandon()) <= 2
    assert len(drawn(engine_replica, order_of()).pictures) == 1


def test_a_cancelled_task_leaves_too(engine_replica: Replica) -> None:
    async def abandon() -> None:
        task = await drawing(engine_replica, order_of(steps=1000))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(abandon())
    wait_until(lambda: asyncio.run(engine_replica.stats()).active_rows == 0, timeout_s=5)


def test_bases_are_stepped_in_turn(engine_replica: Replica) -> None:
    done: list[str] = []

    async def one(base: str, steps: int) -> None:
        await last_of(engine_replica, order_of(base=base, steps=steps))
        done.append(base)

    async def both() -> None:
        await asyncio.gather(one("toy/anime", 40), one("toy/photo", 10))

    drawn(engine_replica, order_of(base="toy/photo", steps=1))
    before = calls(engine_replica)
    asyncio.run(both())
    assert done == ["toy/photo", "toy/anime"]
    assert calls(engine_replica) - before == 50


def test_pictures_come_in_the_order_of_seeds(engine_replica: Replica, trained: AdapterAt) -> None:
    both = pixels(drawn(engine_replica, order_of(trained, seeds=(3, 4))))
    for seed, picture in zip((3, 4), both, strict=True):
        alone = pixels(drawn(engine_replica, order_of(trained, seeds=(seed,))))[0]
        assert abs(picture - alone).max() <= 1
    assert abs(both[0] - both[1]).max() > 8


def test_an_impossible_size_is_refused_and_the_engine_goes_on(engine_replica: Replica) -> None:
    refusal = refused(engine_replica, order_of(size=(97, 96)))
    assert refusal.kind == "invalid"
    assert "width 97" in refusal.reason
    assert drawn(engine_replica, order_of(size=(64, 96))).size == (64, 96)


def test_a_base_that_is_not_served_is_refused(engine_replica: Replica) -> None:
    refusal = refused(engine_replica, order_of(base="toy/oil"))
    assert refusal == Refusal("invalid", "there is no base 'toy/oil' here; choose one of toy/anime, toy/photo")


def test_timings_say_where_the_time_went(engine_replica: Replica, trained: AdapterAt) -> None:
    began = time.monotonic()
    timings = drawn(engine_replica, order_of(trained, steps=20, seeds=(1, 2))).timings
    whole = time.monotonic() - began
    assert min(timings.queued, timings.encoded, timings.decoded) > 0
    assert timings.stepped > timings.decoded
    assert timings.queued + timings.encoded + timings.stepped + timings.decoded <= whole


def test_a_device_that_fails_ends_the_thread_and_tells_everyone(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config)

    def lost(unet: object, call: object) -> Tensor:
        raise RuntimeError("the device is lost")

    replica._residency.engines()["toy/anime"]._runner = lost

    async def ask() -> None:
        with pytest.raises(EngineStoppedError):
            await last_of(replica, order_of())

    async def both() -> None:
        await asyncio.gather(ask(), ask())

    asyncio.run(both())
    wait_until(lambda: not replica._thread._thread.is_alive())
    asyncio.run(ask())
    with pytest.raises(EngineStoppedError, match="is dead"):
        replica.check_health()
    with pytest.raises(EngineStoppedError):
        asyncio.run(replica.embed((person(1),)))
    replica.close()


def test_a_thread_that_hangs_is_found_by_its_heartbeat(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config)
    replica.reconfigure({"engine": {"heartbeat_s": 0.3}})
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        goes_on.wait(30)

    done = replica._thread.call(hang)
    assert hangs.wait(10)
    time.sleep(0.4)
    with pytest.raises(EngineStoppedError, match=r"silent for .* its device hangs"):
        replica.check_health()
    goes_on.set()
    done.result(10)
    drawn(replica, order_of())
    replica.check_health()
    replica.close()


def test_an_idle_thread_is_alive(engine_replica: Replica) -> None:
    # Longer than it sleeps at a time.
    engine_replica.reconfigure({"engine": {"heartbeat_s": 2.5}})
    time.sleep(3.0)
    engine_replica.check_health()
    engine_replica.reconfigure({"engine": {"heartbeat_s": 120.0}})


def test_draining_finishes_what_is_under_way_and_takes_nothing_more(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config)
    closing = threading.Thread(target=replica.close)

    async def use() -> tuple[Drawn | Refusal, Drawn | Refusal]:
        task = await drawing(replica, order_of(steps=60, seeds=(1, 2)))
        closing.start()
        while not replica._thread._is_draining:
            await asyncio.sleep(0.001)
        late = await last_of(replica, order_of())
        return await task, late

    under_way, late = asyncio.run(use())
    assert isinstance(under_way, Drawn)
    assert len(under_way.pictures) == 2
    assert isinstance(late, Refusal)
    assert (late.kind, late.retry_after_s) == ("overloaded", 1)
    closing.join(10)
    assert not replica._thread._thread.is_alive()


def test_the_end_of_the_time_to_drain_tells_who_waits(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config)

    async def use() -> None:
        task = await drawing(replica, order_of(steps=1000))
        await asyncio.to_thread(replica.close, 0.1)
        with pytest.raises(EngineStoppedError):
            await task

    asyncio.run(use())


def test_what_stats_say(engine_replica: Replica, trained: AdapterAt) -> None:
    async def use() -> None:
        order = order_of(trained, steps=1000, seeds=(1, 2))
        async with aclosing(engine_replica.draw(order)) as events:  # type: ignore[type-var]
            await anext(events)
            stats = await engine_replica.stats()
            assert stats.active_rows == 2
            assert 0 < stats.pending_row_steps < 2000
            assert stats.row_steps_per_s > 0
            assert stats.waiting_rows == 0
            assert "toy/anime" in stats.bases
            assert "trained" in stats.adapters
            assert stats.memory_bytes > 2**20
            figures = await engine_replica.record_autoscaling_stats()
            assert set(figures) == {"pending_row_steps", "row_steps_per_s"}

    before = asyncio.run(engine_replica.stats()).caches
    asyncio.run(use())
    after = asyncio.run(engine_replica.stats()).caches
    assert set(after) == {"image_prompts", "image_features", "texts"}
    assert sum(after["image_prompts"]) == sum(before["image_prompts"]) + 1
    assert sum(after["texts"]) > sum(before["texts"])


def test_progress_is_told_now_and_then(engine_replica: Replica) -> None:
    events = asyncio.run(events_of(engine_replica, order_of(steps=150)))
    told = [event for event in events if isinstance(event, Progress)]
    assert told
    assert len(told) < 75
    assert [event.step for event in told] == sorted({event.step for event in told})
    assert {event.steps for event in told} == {150}


def test_bounds_change_while_it_runs(engine_replica: Replica) -> None:
    engine_replica.reconfigure({"engine": {"max_rows": 1, "max_active_rows": 2}, "limits": {"n": 4}})
    before = calls(engine_replica)
    assert len(drawn(engine_replica, order_of(seeds=(1, 2, 3), steps=3)).pictures) == 3
    # One row a call, where three rows shared each before.
    assert calls(engine_replica) - before == 9
    with pytest.raises(ConfigError, match="engine.runner cannot change while a replica runs; start the server anew"):
        engine_replica.reconfigure({"engine": {"runner": "eager"}})
    with pytest.raises(ConfigError, match="max_rows"):
        engine_replica.reconfigure({"engine": {"max_rows": 0}})
    engine_replica.reconfigure({"engine": {"max_rows": 8, "max_active_rows": 12}})
    assert len(drawn(engine_replica, order_of(seeds=(1, 2, 3), steps=3)).pictures) == 3


def test_who_hears_badly_hurts_nobody(engine_config: ServeConfig) -> None:
    thread = EngineThread(Residency(engine_config), engine_config.engine)

    def deaf(event: object) -> None:
        raise RuntimeError("Event loop is closed")

    heard: list[object] = []
    thread.submit(order_of(), deaf)
    thread.submit(order_of(), heard.append)
    wait_until(lambda: bool(heard))
    thread.check_health()
    thread.close()
