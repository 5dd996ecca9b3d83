"""What the engine counts: calls, rows of each adapter, and how it is."""

import asyncio
from collections import Counter
from collections.abc import Mapping

from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import AdapterAt, Drawn
from nigaoe.serve.watching.instruments import Instruments, Metric
from served import draw, order_of


class Ledger:
    """A meter that keeps sums."""

    def __init__(self) -> None:
        self.sums: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[str, float] = {}
        self.seen: dict[str, list[float]] = {}

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        self.sums[(metric.name, *tags.values())] += value  # type: ignore[assignment]

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        self.gauges[metric.name] = value

    def observe(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        self.seen.setdefault(metric.name, []).append(value)


def test_every_row_step_is_counted_for_its_adapter(engine_config: ServeConfig, trained: AdapterAt) -> None:
    ledger = Ledger()
    replica = Replica(engine_config, Instruments(ledger))
    orders = [order_of(trained, seeds=(1, 2), steps=5), order_of(steps=7), order_of(base="toy/photo", steps=3)]
    assert all(isinstance(ended, Drawn) for ended in draw(replica, *orders))
    rows = {key[1:]: count for key, count in ledger.sums.items() if key[0] == "nigaoe_row_steps_total"}
    assert rows == {("toy/anime", "trained"): 10, ("toy/anime", ""): 7, ("toy/photo", ""): 3}
    calls = sum(count for key, count in ledger.sums.items() if key[0] == "nigaoe_unet_calls_total")
    assert calls == asyncio.run(replica.stats()).unet_calls
    occupancy = ledger.seen["nigaoe_batch_occupancy_ratio"]
    assert len(occupancy) == calls
    assert sum(occupancy) * 8 == 20
    assert min(ledger.seen["nigaoe_step_seconds"]) > 0
    assert ledger.gauges["nigaoe_weights_bytes"] > 2**20
    replica.close()
