"""What the ingress hands to a replica and what comes back. Plain data, no torch: the ingress has none."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

OutputFormat = Literal["png", "jpeg", "webp"]
Crop = Literal["centre", "pad", "resize", "tile", "face"]
Sides = Literal["v", "k_v", "k_v_c", "k_mean_v_c"]
Combination = Literal["concat", "average", "norm_average", "add", "subtract"]
NoiseKind = Literal["fade", "dissolve", "gaussian", "shuffle"]
Sampler = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "lcm"]


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded and upright."""

    pixels: NDArray[np.uint8]
    """RGB [H, W, 3], or grey [H, W] of a mask; an array travels between processes without a copy."""


@dataclass(frozen=True)
class AdapterAt:
    """One version of an adapter: whatever is published or deleted meanwhile, this one is drawn with."""

    name: str
    sha256: str
    where: str
    """A file or an address, whose content has this hash."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePromptOrder:
    """Pictures of somebody for one adapter; the words are those of `nigaoe.core.image_prompts`."""

    adapter: AdapterAt
    pictures: tuple[Picture, ...] = ()
    embeddings: bytes | None = None
    """In place of pictures: a file of nigaoe's own format."""
    negative: Picture | None = None
    crop: Crop = "centre"
    crop_position: tuple[float, float] = (0.5, 0.5)
    scale: float = 1.0
    layers: str | tuple[float, ...] | None = None
    """A preset's name, or a factor for each layer."""
    sides: Sides = "v"
    combination: Combination = "concat"
    weights: tuple[float, ...] | None = None
    start: float = 0.0
    end: float = 1.0
    shortcut_scale: float = 1.0
    lora_scale: float = 1.0
    noise: NoiseKind | None = None
    """A negative made of noise, of `negative` or of the first picture."""
    noise_strength: float = 0.5
    noise_blur: float = 0.0
    mask: Picture | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A valid request: one picture per seed. What it gives is a function of it alone, so it may be drawn again."""

    id: str
    """Of the request, for logs."""
    base: str
    prompt: str
    negative_prompt: str = ""
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    sampler: Sampler = "ddim"
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: those of `init`, or the base's own."""
    image_prompts: tuple[ImagePromptOrder, ...] = ()
    init: Picture | None = None
    """Start from this picture."""
    strength: float = 0.8
    inpaint_mask: Picture | None = None
    """White where it is drawn anew; needs `init`."""
    priority: int = 0
    """Higher ones are let in first."""
    deadline_s: float | None = None
    """Seconds from its arrival after which nobody wants it any more."""
    partial_images: int = 0
    """Previews of each picture while it is drawn."""
    output_format: OutputFormat = "png"
    quality: int = 90
    """0 to 100, of JPEG and WebP."""
    parameters: str = ""
    """The resolved request as JSON, for the metadata of a PNG."""
    trace: str | None = None
    """`traceparent` of the request (W3C trace context), for spans."""


@dataclass(frozen=True)
class Progress:
    """Steps taken by the picture that is farthest behind."""

    step: int
    steps: int


@dataclass(frozen=True)
class Partial:
    """A preview, encoded."""

    place: int
    """Among the seeds."""
    index: int
    """Of this picture's previews, from 0."""
    picture: bytes


@dataclass(frozen=True)
class Timings:
    """Seconds."""

    queued: float
    encoded: float
    """Prompts and pictures."""
    stepped: float
    decoded: float


@dataclass(frozen=True)
class Drawn:
    """The pictures of an order, encoded, in the order of its seeds."""

    pictures: tuple[bytes, ...]
    size: tuple[int, int]
    timings: Timings


RefusalKind = Literal["invalid", "overloaded", "late", "failed"]


@dataclass(frozen=True)
class Refusal:
    """An order that is not drawn. A value, for Ray Serve logs an exception as a failure of the replica."""

    kind: RefusalKind
    """`invalid`: never possible. `overloaded`: no place now. `late`: not before its deadline. `failed`: these pictures
    came to nothing, as they would again."""
    reason: str
    retry_after_s: int | None = None


Event = Progress | Partial | Drawn | Refusal
"""The last one of an order is a `Drawn` or a `Refusal`."""


@dataclass(frozen=True)
class EngineStats:
    """What one replica is doing."""

    active_rows: int
    waiting_rows: int
    pending_row_steps: int
    """Of both."""
    row_steps_per_s: float
    """Lately; 0 before anything was drawn."""
    unet_calls: int
    bases: tuple[str, ...] = ()
    """In memory."""
    adapters: tuple[str, ...] = ()
    """Names of those in memory."""
    memory_bytes: int = 0
    caches: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Hits and misses."""


class EngineStoppedError(RuntimeError):
    """A replica cannot draw any more and must be replaced; what it was given may be given to another."""


class Backend(Protocol):
    """Whoever draws for the ingress."""

    def draw(self, order: Order) -> AsyncIterator[Event]:
        """What happens to an order, to its end; closing the iterator stops the work before the next step."""
        ...

    async def embed(self, pictures: tuple[Picture, ...]) -> bytes | Refusal:
        """What the encoders of the server say of pictures, as a file of nigaoe's own format."""
        ...

    async def stats(self) -> EngineStats:
        """Ask one replica how it is."""
        ...
