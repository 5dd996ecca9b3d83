"""One replica: all models on one device, an engine thread and the asyncio side that waits for it; no Ray."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from nigaoe.core.config import parse_config
from nigaoe.core.errors import ConfigError
from nigaoe.core.image_prompts.embedding_files import embedding_bytes
from nigaoe.core.pixels import as_pil
from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.engine.finishing import Finisher
from nigaoe.serve.engine.jobs import EngineEvent, Finished, Sketch, Stopped, refusal_of
from nigaoe.serve.engine.residency import Residency
from nigaoe.serve.engine.thread import EngineThread
from nigaoe.serve.orders import (
    Drawn,
    EngineStats,
    EngineStoppedError,
    Event,
    Order,
    Partial,
    Picture,
    Refusal,
)
from nigaoe.serve.watching.instruments import Instruments

log = logging.getLogger(__name__)

CHANGEABLE = frozenset(
    {"max_rows", "max_active_rows", "max_ongoing_requests", "max_queued_requests", "memory_gib", "heartbeat_s"}
)
"""Fields of `EngineConfig` that may change while a replica runs."""
FINISHING_THREADS = 2
"""That encode files. Pillow lets go of the interpreter while it does."""


class Replica:
    """Draws orders; a `Backend`."""

    def __init__(self, config: ServeConfig, instruments: Instruments | None = None) -> None:
        """Load what is needed at once and make the first calls.

        Raises:
            NigaoeError: Something of the config cannot be loaded.
        """
        self._finisher = Finisher(config.safety, config.watermark)
        self._finishing = ThreadPoolExecutor(FINISHING_THREADS, thread_name_prefix="finish")
        self._residency = Residency(config)
        self._engine_config, self._drain_s = config.engine, config.drain_s
        self._thread = EngineThread(self._residency, config.engine, instruments)

    async def draw(self, order: Order) -> AsyncIterator[Event]:
        """What happens to an order, to its end; closing the iterator takes its rows out before the next step.

        Raises:
            EngineStoppedError: This replica cannot draw any more.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[EngineEvent] = asyncio.Queue()

        def hear(event: EngineEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = self._thread.submit(order, hear)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Stopped):
                    raise EngineStoppedError("the engine stopped while drawing")
                outcome = await self._outcome(event, order)
                if outcome is not None:
                    yield outcome
                if isinstance(outcome, Drawn | Refusal):
                    return
        finally:
            self._thread.cancel(job)

    async def embed(self, pictures: tuple[Picture, ...]) -> bytes | Refusal:
        """What the encoders say of pictures, as a file of nigaoe's own format.

        Raises:
            EngineStoppedError: This replica cannot look any more.
        """
        conditioner = self._residency.conditioner

        def look() -> bytes:
            return embedding_bytes(conditioner.embed([as_pil(picture.pixels) for picture in pictures]))

        try:
            return await asyncio.wrap_future(self._thread.call(look))
        except EngineStoppedError:
            raise
        except Exception as error:
            return refusal_of(error)

    async def stats(self) -> EngineStats:
        """What the engine is doing.

        Raises:
            EngineStoppedError: Nothing any more.
        """
        self.check_health()
        return self._thread.stats()

    def check_health(self) -> None:
        """Ray Serve replaces a replica that raises here.

        Raises:
            EngineStoppedError: The engine thread is dead or hangs.
        """
        self._thread.check_health()

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take on changed bounds of the section `engine`; the other sections are the ingress's.

        Raises:
            ConfigError: A value is wrong, or may not change while a replica runs.
        """
        before = self._engine_config
        asked = {**before.model_dump(mode="json"), **user_config.get("engine", {})}
        after = parse_config(asked, EngineConfig, "user_config")
        fixed = [
            name
            for name in EngineConfig.model_fields
            if name not in CHANGEABLE and getattr(before, name) != getattr(after, name)
        ]
        if fixed:
            raise ConfigError(f"engine.{fixed[0]} cannot change while a replica runs; start the server anew")
        if after != before:
            self._engine_config = after
            self._thread.reconfigure(after)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Work that waits and is under way, and how fast it is done."""
        stats = self._thread.stats()
        return {"pending_row_steps": float(stats.pending_row_steps), "row_steps_per_s": stats.row_steps_per_s}

    def close(self, drain_s: float | None = None) -> None:
        """Take nothing more, let what is under way finish within `drain_s`, and end; who still waits hears of it."""
        if not self._thread.drain(self._drain_s if drain_s is None else drain_s):
            log.warning("orders were cut off at the end of the time to drain")
        self._thread.close()

    async def _outcome(self, event: EngineEvent, order: Order) -> Event | None:
        """What is told of an event; None: nothing."""
        loop = asyncio.get_running_loop()
        assert not isinstance(event, Stopped)
        if isinstance(event, Sketch):
            try:
                file = await loop.run_in_executor(self._finishing, self._finisher.preview, event.image, order)
            except Exception:
                # The picture itself will fail for the same reason, and say so.
                log.warning("a preview could not be finished", extra={"request_id": order.id}, exc_info=True)
                return None
            return None if file is None else Partial(event.place, event.index, file)
        if not isinstance(event, Finished):
            return event
        began = time.monotonic()
        try:
            files = await asyncio.gather(
                *(
                    loop.run_in_executor(self._finishing, self._finisher.file, image, order, place)
                    for place, image in enumerate(event.images)
                )
            )
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.kind == "failed":
                log.warning("a picture could not be finished", extra={"request_id": order.id}, exc_info=True)
            return refusal
        timings = replace(event.timings, decoded=event.timings.decoded + time.monotonic() - began)
        return Drawn(tuple(files), event.images[0].size, timings)
