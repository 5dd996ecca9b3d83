"""A replica as Ray Serve runs it: what its engine does, told to the autoscaler, the router, the logs and the meters."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, nullcontext
from typing import Any, cast

from nigaoe.serve.config import ServeConfig
from nigaoe.serve.deployments.changes import AT_THE_ENGINE, changed
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import Drawn, Event, Order, Refusal
from nigaoe.serve.scaling.arrivals import Arrivals
from nigaoe.serve.watching.instruments import Instruments
from nigaoe.serve.watching.logs import configure
from nigaoe.serve.watching.ray_meter import RayMeter
from nigaoe.serve.watching.tracing import make_tracing

log = logging.getLogger(__name__)


class EngineReplica(Replica):
    """One device and all models on it."""

    def __init__(self, config: ServeConfig) -> None:
        configure(config.watching.log_format)
        self._config = config
        self._tracing = make_tracing(config.watching.otlp_endpoint, "engine")
        self._instruments = Instruments(RayMeter())
        self._arrivals = Arrivals()
        began_s = time.monotonic()
        super().__init__(config, self._instruments)
        log.info("ready", extra={"seconds": round(time.monotonic() - began_s, 2)})

    async def draw(self, order: Order) -> AsyncIterator[Event]:
        self._arrivals.ordered(order, time.monotonic())
        began_s = time.monotonic()
        span = nullcontext() if order.trace is None else self._tracing.span("draw", order.trace, **_attributes(order))
        with span:
            async with aclosing(cast("AsyncGenerator[Event]", super().draw(order))) as events:
                async for event in events:
                    if isinstance(event, Drawn | Refusal):
                        self._told(order, event, time.monotonic() - began_s)
                    yield event

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaler reckons with."""
        now_s = time.monotonic()
        return await super().record_autoscaling_stats() | {
            "arriving_row_steps_per_s": self._arrivals.row_steps_per_s(now_s),
            "row_steps_per_order": self._arrivals.row_steps_per_order,
        }

    async def record_routing_stats(self) -> dict[str, Any]:
        """What the router of each ingress reckons with."""
        stats = await self.stats()
        self._instruments.engine(stats)
        held = [f"base {name}" for name in stats.bases] + [f"adapter {name}" for name in stats.adapters]
        return {
            # By the wall: it is compared with the clock of another process.
            "time_s": time.time(),
            "pending_row_steps": stats.pending_row_steps,
            "row_steps_per_s": stats.row_steps_per_s,
            "holds": held,
        }

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take on changed bounds while drawing goes on.

        Raises:
            ConfigError: Something changes that needs a restart, or a value is wrong.
        """
        config = changed(self._config, user_config, AT_THE_ENGINE)
        # All of it: what is no longer changed becomes what it was at the start.
        super().reconfigure({"engine": config.engine.model_dump(mode="json")})

    def _told(self, order: Order, event: Drawn | Refusal, seconds: float) -> None:
        extra: dict[str, object] = {"request_id": order.id, "seconds": round(seconds, 3), **_attributes(order)}
        if isinstance(event, Drawn):
            self._instruments.drawn(event.timings)
            log.info("drawn", extra=extra | {"queued_s": round(event.timings.queued, 3)})
        else:
            log.info("refused", extra=extra | {"kind": event.kind, "reason": event.reason})


def _attributes(order: Order) -> dict[str, str | int]:
    return {
        "base": order.base,
        "adapter": ",".join(prompt.adapter.name for prompt in order.image_prompts),
        "rows": len(order.seeds),
        "steps": order.steps,
    }
