"""What the ingress hands to a replica and what comes back. Plain data, no torch: the ingress has none."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

OutputFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, eq=False)
class Reference:
    """A decoded picture of somebody."""

    pixels: NDArray[np.uint8]
    """RGB [H, W, 3]; an array travels between processes without a copy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A valid request: one picture per seed."""

    base: str
    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: the base's own."""
    adapter: str | None = None
    """Set if and only if there is a reference."""
    adapter_scale: float = 1.0
    reference: Reference | None = None
    output_format: OutputFormat = "png"
    quality: int = 90
    """0 to 100, of JPEG and WebP."""


@dataclass(frozen=True)
class Drawn:
    """The pictures of an order, encoded, in the order of its seeds."""

    pictures: tuple[bytes, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Refusal:
    """An order that its base cannot do. A value, for Ray Serve logs an exception as a failure of the replica."""

    reason: str


@dataclass(frozen=True)
class EngineStats:
    """What one replica is doing."""

    active_rows: int
    pending_row_steps: int
    unet_calls: int


class Backend(Protocol):
    """Whoever draws for the ingress."""

    async def draw(self, order: Order) -> Drawn:
        """Draw all pictures of an order; being cancelled stops the work."""
        ...

    async def stats(self) -> EngineStats:
        """Ask one replica how it is."""
        ...
