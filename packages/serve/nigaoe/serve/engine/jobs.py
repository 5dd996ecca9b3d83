"""An order on its way through the engine thread, and what is heard of it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto

from PIL import Image

from nigaoe.core.engine.rows import GuidedImagePrompt
from nigaoe.core.errors import BaseModelError, ConfigError, DataError, GenerationError, NigaoeError
from nigaoe.serve.engine.prompts import Prepared
from nigaoe.serve.engine.residency import Lease
from nigaoe.serve.orders import Order, Progress, Refusal, Timings

log = logging.getLogger(__name__)

PROGRESS_S = 0.25
"""Least time between two words on progress: each of them travels between processes."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """A preview, not encoded yet."""

    place: int
    index: int
    image: Image.Image


@dataclass(frozen=True, eq=False)
class Finished:
    """All pictures of an order, by seed, not encoded yet."""

    images: tuple[Image.Image, ...]
    timings: Timings


@dataclass(frozen=True)
class Stopped:
    """The engine thread ended before the order did; another replica may draw it."""


EngineEvent = Progress | Sketch | Finished | Refusal | Stopped


class State(Enum):
    """Where an order is."""

    NEW = auto()
    LOADING = auto()
    PREPARING = auto()
    READY = auto()
    """May be let in."""
    ENTERED = auto()
    """Some or all of its rows are in the engine."""
    ENDED = auto()


@dataclass(eq=False)
class Job:
    """One order. All but `order` and `arrived` belongs to the engine thread."""

    order: Order
    on_event: Callable[[EngineEvent], None]
    number: int
    """Of arrival."""
    arrived: float = field(default_factory=time.monotonic)
    state: State = State.NEW
    lease: Lease | None = None
    preparing: "Future[Prepared] | None" = None
    prepared: Prepared | None = None
    image_prompts: tuple[GuidedImagePrompt, ...] | None = None
    """Encoded, where all seeds have the same."""
    entered: int = 0
    """Seeds whose rows are in the engine or were."""
    places: dict[int, int] = field(default_factory=dict)
    """Ticket to place among the seeds, of rows still under way."""
    pictures: dict[int, Image.Image] = field(default_factory=dict)
    """By place."""
    told: tuple[float, int] = (0.0, -1)
    """When progress was last told, and which."""
    entered_at: float | None = None
    stepped_at: float | None = None
    encoded_s: float = 0.0

    @property
    def goes_before(self) -> tuple[int, int]:
        """Smaller ones are let in first."""
        return -self.order.priority, self.number

    @property
    def steps(self) -> int:
        """Of one picture."""
        order = self.order
        return order.steps if order.init is None else max(1, min(int(order.steps * order.strength), order.steps))

    @property
    def waiting_row_steps(self) -> int:
        """Of rows that are not in the engine yet."""
        return self.steps * (len(self.order.seeds) - self.entered)

    @property
    def deadline(self) -> float | None:
        """On the clock of `time.monotonic`."""
        return None if self.order.deadline_s is None else self.arrived + self.order.deadline_s

    @property
    def adapters(self) -> str:
        """Names of its adapters, for figures."""
        return "+".join(dict.fromkeys(prompt.adapter.name for prompt in self.order.image_prompts))

    def tell(self, event: EngineEvent) -> None:
        """Pass an event on. Whoever cannot hear it any more is no reason to stop for the others."""
        try:
            self.on_event(event)
        except Exception:
            log.warning("nobody hears of an order any more", extra={"request_id": self.order.id}, exc_info=True)

    def preview_index(self, position: int, steps: int) -> int | None:
        """Which preview a picture is shown by after so many of its steps; None: no preview is due.

        They are spread evenly; the last step is none, and where there are fewer steps than previews some fall away.
        """
        count = self.order.partial_images + 1
        due = sorted({max(1, round(i * steps / count)) for i in range(1, count)} - {steps})
        return due.index(position) if position in due else None

    def timings(self, now: float) -> Timings:
        """Of an order whose pictures are all there."""
        entered = self.entered_at or now
        stepped = self.stepped_at or now
        return Timings(
            queued=max(0.0, entered - self.arrived),
            encoded=self.encoded_s,
            stepped=max(0.0, stepped - entered - self.encoded_s),
            decoded=max(0.0, now - stepped),
        )


def refusal_of(error: BaseException) -> Refusal:
    """What to say of an order that cannot be drawn."""
    if isinstance(error, BaseModelError | ConfigError | DataError | GenerationError):
        # Of the server's own files, or of this one picture.
        return Refusal("failed", str(error))
    if isinstance(error, NigaoeError):
        return Refusal("invalid", str(error))
    return Refusal("failed", f"the order could not be drawn ({type(error).__name__}); see the log of this replica")
