"""Who waits, who goes first, and who is refused because it would be too late."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.engine.jobs import Job
from nigaoe.serve.engine.pace import Pace
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.engine.waiting import Waiting, predicted_s
from nigaoe.serve.orders import Drawn, Order, Refusal
from served import difference, draw, drawn, last_of, order_of


@pytest.fixture(scope="module")
def narrow(engine_config: ServeConfig) -> Iterator[Replica]:
    """A replica with two places."""
    replica = Replica(engine_config.model_copy(update={"engine": EngineConfig(max_rows=2, max_active_rows=2)}))
    yield replica
    replica.close(5.0)


def test_higher_priorities_are_let_in_first_and_then_who_came_first(narrow: Replica) -> None:
    ended: list[str] = []

    async def one(order: Order) -> None:
        await last_of(narrow, order)
        ended.append(order.id)

    async def all_of() -> None:
        async with aclosing(narrow.draw(order_of(seeds=(1, 2), steps=1000))) as events:  # type: ignore[type-var]
            await anext(events)
            waiting = [
                asyncio.create_task(one(order_of(id=name, seeds=(1, 2), priority=priority)))
                for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1))
            ]
            while (await narrow.stats()).waiting_rows < 10:
                await asyncio.sleep(0.001)
            assert (await narrow.stats()).active_rows == 2
        await asyncio.gather(*waiting)

    asyncio.run(all_of())
    assert ended == ["b", "d", "a", "c", "e"]


def test_places_are_kept_to_row_by_row(narrow: Replica) -> None:
    most = 0

    async def watched() -> Drawn | Refusal:
        nonlocal most
        task = asyncio.create_task(last_of(narrow, order_of(seeds=(1, 2, 3, 4, 5), steps=6)))
        while not task.done():
            most = max(most, (await narrow.stats()).active_rows)
            await asyncio.sleep(0.001)
        return task.result()

    together = asyncio.run(watched())
    assert isinstance(together, Drawn)
    assert most == 2
    alone = [drawn(narrow, order_of(seeds=(seed,), steps=6)) for seed in (1, 2, 3, 4, 5)]
    assert difference(together, replace(together, pictures=tuple(one.pictures[0] for one in alone))) <= 1


def test_what_would_be_too_late_is_refused_at_once(narrow: Replica) -> None:
    async def ask() -> Refusal:
        async with aclosing(narrow.draw(order_of(seeds=(1, 2), steps=1000))) as events:  # type: ignore[type-var]
            await anext(events)
            began = time.monotonic()
            refusal = await last_of(narrow, order_of(steps=2, deadline_s=0.5))
            assert time.monotonic() - began < 0.45
        assert isinstance(refusal, Refusal)
        return refusal

    refusal = asyncio.run(ask())
    assert refusal.kind == "late"
    assert "past its deadline" in refusal.reason
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s >= 1
    (in_time,) = draw(narrow, order_of(steps=2, deadline_s=30.0))
    assert isinstance(in_time, Drawn)


def test_its_own_steps_count_too(narrow: Replica) -> None:
    (refusal,) = draw(narrow, order_of(steps=1000, deadline_s=0.2))
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "late"


def test_a_deadline_that_passes_while_it_waits_or_is_drawn(narrow: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody knows how long anything takes, so that nothing is refused beforehand.
    monkeypatch.setattr(Pace, "call_s", lambda self, rows: None)

    async def ask() -> tuple[Drawn | Refusal, Drawn | Refusal]:
        drawing = asyncio.create_task(last_of(narrow, order_of(seeds=(1, 2), steps=1000, deadline_s=1.0)))
        while (await narrow.stats()).active_rows < 2:
            await asyncio.sleep(0.001)
        began = time.monotonic()
        waiting = await last_of(narrow, order_of(deadline_s=0.3))
        assert 0.2 < time.monotonic() - began < 0.8
        return waiting, await drawing

    for refusal in asyncio.run(ask()):
        assert isinstance(refusal, Refusal)
        assert (refusal.kind, refusal.reason.split(";")[0]) == ("late", "its deadline passed before it was done")
    assert asyncio.run(narrow.stats()).active_rows == 0


def test_a_row_of_higher_priority_is_stepped_first(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config.model_copy(update={"engine": EngineConfig(max_rows=1, max_active_rows=8)}))
    ended: list[str] = []

    async def one(order: Order) -> None:
        await last_of(replica, order)
        ended.append(order.id)

    async def both() -> None:
        first = asyncio.create_task(one(order_of(id="patient", steps=60)))
        while not (await replica.stats()).active_rows:
            await asyncio.sleep(0.001)
        await one(order_of(id="urgent", steps=5, priority=1))
        await first

    asyncio.run(both())
    assert ended == ["urgent", "patient"]
    replica.close()


def test_pace_is_a_ratio_over_what_was_lately_done() -> None:
    pace = Pace()
    assert pace.row_steps_per_s == 0
    assert pace.call_s(4) is None
    assert pace.predicted_s(100, 4, 25) is None
    for _ in range(200):
        pace.record(8, 0.1)
    assert pace.row_steps_per_s == pytest.approx(80)
    for _ in range(1000):
        pace.record(2, 0.1)
    assert pace.row_steps_per_s == pytest.approx(20, rel=0.05)


def test_pace_knows_calls_of_every_size() -> None:
    pace = Pace()
    # The first call of a kind may have compiled something: the second one counts in its place.
    pace.record(2, 9.0)
    pace.record(2, 0.2)
    pace.record(6, 0.4)
    assert pace.call_s(1) == pytest.approx(0.2)
    assert pace.call_s(2) == pytest.approx(0.2)
    assert pace.call_s(4) == pytest.approx(0.3)
    assert pace.call_s(12) == pytest.approx(0.8)
    assert pace.predicted_s(120, 6, 5) == pytest.approx(8.0)
    # However many are stepped together, one row takes its own steps one after the other.
    assert pace.predicted_s(120, 6, 50) == pytest.approx(20.0)


def test_predictions_count_those_that_go_before() -> None:
    pace, waiting = Pace(), Waiting()
    pace.record(1, 1.0)

    def job(number: int, **changes: Any) -> Job:
        return Job(order_of(steps=10, **changes), lambda event: None, number)

    waiting.add(job(0))
    waiting.add(job(1, priority=3, seeds=(1, 2)))
    assert [other.number for other in waiting] == [1, 0]
    assert (waiting.rows, waiting.row_steps) == (3, 30)
    assert predicted_s(job(2), waiting, pace, (2, 7), 1) == pytest.approx(7 + 10 + 20 + 10)
    assert predicted_s(job(2, priority=1), waiting, pace, (2, 7), 1) == pytest.approx(7 + 20 + 10)
    assert predicted_s(job(2, priority=4), waiting, pace, (2, 7), 1) == pytest.approx(7 + 10)


@pytest.mark.parametrize(
    ("count", "steps", "positions"),
    [(3, 20, [5, 10, 15]), (1, 4, [2]), (3, 2, [1]), (3, 1, []), (0, 20, []), (2, 3, [1, 2])],
)
def test_previews_are_spread_over_the_steps(count: int, steps: int, positions: list[int]) -> None:
    job = Job(order_of(partial_images=count), lambda event: None, 0)
    due = {p: index for p in range(steps + 1) if (index := job.preview_index(p, steps)) is not None}
    assert due == {position: i for i, position in enumerate(positions)}
