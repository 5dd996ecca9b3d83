"""What a server counts and times. Names carry their units; who collects them, Ray or Prometheus alone, is a `Meter`."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from nigaoe.serve.orders import EngineStats, RefusalKind, Timings

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Metric:
    """One figure that is watched."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""


REQUESTS = Metric(
    "nigaoe_requests_total", "counter", "Requests answered, by route and status.", ("route", "status", "caller")
)
REQUEST_SECONDS = Metric(
    "nigaoe_request_seconds", "histogram", "From a request's arrival to its answer's end.", ("route",), _SECONDS
)
IMAGES = Metric("nigaoe_images_total", "counter", "Pictures handed out.", ("base", "adapter"))
REFUSALS = Metric("nigaoe_refusals_total", "counter", "Orders that were not drawn, by kind.", ("kind",))
RETRIES = Metric("nigaoe_retries_total", "counter", "Orders drawn again because their replica was lost.")
QUEUE_SECONDS = Metric("nigaoe_queue_seconds", "histogram", "From an order's arrival to its first step.", (), _SECONDS)
ENCODE_SECONDS = Metric("nigaoe_encode_seconds", "histogram", "Prompts and pictures of an order.", (), _SECONDS)
DECODE_SECONDS = Metric("nigaoe_decode_seconds", "histogram", "Latents of an order to files.", (), _SECONDS)
STEPS = Metric("nigaoe_unet_calls_total", "counter", "UNet calls.", ("base",))
ROW_STEPS = Metric("nigaoe_row_steps_total", "counter", "Steps taken, times the rows of each.", ("base", "adapter"))
STEP_SECONDS = Metric("nigaoe_step_seconds", "histogram", "One step of a batch.", ("base",), _STEP_SECONDS)
OCCUPANCY = Metric(
    "nigaoe_batch_occupancy_ratio", "histogram", "Rows of a batch over the most it may have.", ("base",), _RATIOS
)
ROWS_ACTIVE = Metric("nigaoe_rows_in_flight", "gauge", "Rows being stepped.")
ROWS_WAITING = Metric("nigaoe_rows_waiting", "gauge", "Rows that wait for a place.")
PENDING = Metric("nigaoe_pending_row_steps", "gauge", "Steps still to take, of rows in flight and waiting.")
RATE = Metric("nigaoe_row_steps_per_second", "gauge", "Row-steps a second, lately.")
MEMORY = Metric("nigaoe_weights_bytes", "gauge", "Weights of bases and adapters in memory.")
BASES = Metric("nigaoe_bases_loaded", "gauge", "Bases in memory.")
ADAPTERS = Metric("nigaoe_adapters_loaded", "gauge", "Adapters in memory.")
CACHE_HITS = Metric("nigaoe_cache_hits_total", "counter", "Look-ups that found something.", ("cache",))
CACHE_MISSES = Metric("nigaoe_cache_misses_total", "counter", "Look-ups that found nothing.", ("cache",))

ALL = (
    REQUESTS,
    REQUEST_SECONDS,
    IMAGES,
    REFUSALS,
    RETRIES,
    QUEUE_SECONDS,
    ENCODE_SECONDS,
    DECODE_SECONDS,
    STEPS,
    ROW_STEPS,
    STEP_SECONDS,
    OCCUPANCY,
    ROWS_ACTIVE,
    ROWS_WAITING,
    PENDING,
    RATE,
    MEMORY,
    BASES,
    ADAPTERS,
    CACHE_HITS,
    CACHE_MISSES,
)


class Meter(Protocol):
    """Whoever keeps the figures; called from any thread."""

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Count further; by 0, to be shown from now on."""
        ...

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Say what a gauge shows."""
        ...

    def observe(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Add a value to a histogram."""
        ...


class Instruments:
    """The figures of one process; every method may be called from any thread, and costs microseconds."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._caches: dict[str, tuple[int, int]] = {}

    def begin(self) -> None:
        """Show from 0 what is rare: a count that Prometheus first sees at 1 has not risen for it."""
        self._meter.add(RETRIES, 0, {})
        for kind in get_args(RefusalKind):
            self._meter.add(REFUSALS, 0, {"kind": kind})

    def request(self, route: str, status: int, seconds: float, caller: str) -> None:
        """A request was answered. `route`: its pattern, not its path; `caller`: a name that is configured."""
        self._meter.add(REQUESTS, 1, {"route": route, "status": str(status), "caller": caller})
        self._meter.observe(REQUEST_SECONDS, seconds, {"route": route})

    def images(self, base: str, adapter: str | None, count: int) -> None:
        """Pictures were handed out."""
        self._meter.add(IMAGES, count, {"base": base, "adapter": adapter or ""})

    def refused(self, kind: str) -> None:
        """An order was not drawn; `kind` as in `Refusal`."""
        self._meter.add(REFUSALS, 1, {"kind": kind})

    def retried(self) -> None:
        """An order goes to another replica."""
        self._meter.add(RETRIES, 1, {})

    def drawn(self, timings: Timings) -> None:
        """An order came to its end."""
        self._meter.observe(QUEUE_SECONDS, timings.queued, {})
        self._meter.observe(ENCODE_SECONDS, timings.encoded, {})
        self._meter.observe(DECODE_SECONDS, timings.decoded, {})

    def stepped(self, base: str, rows: Mapping[str, int], max_rows: int, seconds: float) -> None:
        """A UNet call was made; `rows`: how many of each adapter, "" for rows without one."""
        total = sum(rows.values())
        self._meter.add(STEPS, 1, {"base": base})
        self._meter.observe(STEP_SECONDS, seconds, {"base": base})
        self._meter.observe(OCCUPANCY, total / max_rows, {"base": base})
        for adapter, count in rows.items():
            self._meter.add(ROW_STEPS, count, {"base": base, "adapter": adapter})

    def engine(self, stats: EngineStats) -> None:
        """What an engine is doing; called now and then."""
        for metric, value in (
            (ROWS_ACTIVE, stats.active_rows),
            (ROWS_WAITING, stats.waiting_rows),
            (PENDING, stats.pending_row_steps),
            (RATE, stats.row_steps_per_s),
            (MEMORY, stats.memory_bytes),
            (BASES, len(stats.bases)),
            (ADAPTERS, len(stats.adapters)),
        ):
            self._meter.set(metric, value, {})
        with self._lock:
            for cache, (hits, misses) in stats.caches.items():
                known_hits, known_misses = self._caches.get(cache, (0, 0))
                self._caches[cache] = (hits, misses)
                # A cache that was made anew counts from 0 again.
                self._meter.add(CACHE_HITS, hits - known_hits if hits >= known_hits else hits, {"cache": cache})
                missed = misses - known_misses if misses >= known_misses else misses
                self._meter.add(CACHE_MISSES, missed, {"cache": cache})
