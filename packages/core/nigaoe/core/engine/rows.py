"""Requests and the rows they become."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.attention import ImagePrompt, KeysValues
from nigaoe.core.controlnets import ControlNet
from nigaoe.core.errors import RequestError
from nigaoe.core.pixels import as_pil
from nigaoe.core.samplers.plan import SamplingPlan, Step
from nigaoe.core.samplers.registry import SamplerName
from nigaoe.core.text_encoders import TextStates


class GuidedImagePrompt(NamedTuple):
    """An image prompt and its unconditional twin, one row each, scale folded in."""

    conditional: ImagePrompt
    unconditional: ImagePrompt
    start: float = 0.0
    """Share of the run, in [0, 1], before which it is silent."""
    end: float = 1.0
    """Share of the run after which it is silent."""
    mask: Tensor | None = None
    """Where it applies, float32 [H, W] in [0, 1] at the size of the picture; None: everywhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """A picture that a ControlNet reads: edges, depth, a pose."""

    net: ControlNet
    image: Image.Image
    """Of the size of the picture that is drawn."""
    scale: float = 1.0
    start: float = 0.0
    """Share of the run, in [0, 1], before which it is silent."""
    end: float = 1.0

    def __post_init__(self) -> None:
        """Take any picture; refuse a net that was not loaded by `load_controlnet`."""
        if not isinstance(self.net, ControlNet):
            raise RequestError(f"net is of type {type(self.net).__name__}; give what `load_controlnet` returns")
        object.__setattr__(self, "image", as_pil(self.image))


_KINDS: dict[str, tuple[type | UnionType, str]] = {
    "prompt": (str, "text"),
    "negative_prompt": (str, "text, empty for none"),
    "seed": (Integral, "a whole number"),
    "steps": (Integral, "a whole number"),
    "guidance_scale": (Real, "a number, 1 for no guidance"),
    "strength": (Real, "a number in [0, 1]"),
    "width": (Integral | None, "a whole number of pixels"),
    "height": (Integral | None, "a whole number of pixels"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """One picture that somebody wants."""

    prompt: str
    negative_prompt: str = ""
    image_prompts: tuple[GuidedImagePrompt, ...] = ()
    """Of one adapter or of several; each attends on its own."""
    seed: int = 0
    steps: int = 25
    guidance_scale: float = 7.5
    """Up to 1: none, at half the cost."""
    sampler: SamplerName = "ddim"
    width: int | None = None
    """Pixels; None: those of `init_image`, or the base's own."""
    height: int | None = None
    init_image: Image.Image | None = None
    """Start from this picture instead of noise alone."""
    strength: float = 0.8
    """How much of the run is left to draw over `init_image`, in [0, 1]; 1 forgets all but its layout."""
    inpaint_mask: Image.Image | None = None
    """Draw only where this mask is white; the rest stays `init_image`. Of its size."""
    controls: tuple[Control, ...] = ()
    original_size: tuple[int, int] | None = None
    """(height, width) that SDXL is told the picture had; None: its own."""
    crop_top_left: tuple[int, int] = (0, 0)
    """Likewise, where it was cut from."""

    def __post_init__(self) -> None:
        """Take what is meant and refuse what is not.

        Raises:
            RequestError: A field of another kind.
            ImageError: Something that is no picture.
        """
        for name, (kind, called) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise RequestError(f"{name} is {value!r}, of type {type(value).__name__}; give {called}")
        for name, one, called in (
            ("image_prompts", GuidedImagePrompt, "prompts as `Conditioner.prompt` makes them"),
            ("controls", Control, "`Control`s"),
        ):
            several = getattr(self, name)
            if isinstance(several, one) or not isinstance(several, (tuple, list)):
                raise RequestError(f"{name} is of type {type(several).__name__}; give a tuple of {called}")
            for value in several:
                if not isinstance(value, one):
                    raise RequestError(f"{name} hold something of type {type(value).__name__}; give {called}")
            object.__setattr__(self, name, tuple(several))
        if self.init_image is not None:
            object.__setattr__(self, "init_image", as_pil(self.init_image))
        if self.inpaint_mask is not None and not isinstance(self.inpaint_mask, Image.Image):
            raise RequestError(f"inpaint_mask is of type {type(self.inpaint_mask).__name__}; give a PIL picture")

    @property
    def is_guided(self) -> bool:
        """Whether it needs an unconditional prediction; up to 1 there is no guidance, as in diffusers."""
        return self.guidance_scale > 1.0


class RowText(NamedTuple):
    """A prompt as one row of a UNet call reads it."""

    encoded: TextStates
    """One row."""
    keys_values: KeysValues


class Inpainting(NamedTuple):
    """What an inpainted row keeps, with a UNet that knows nothing of inpainting."""

    mask: Tensor
    """float32 [1, h, w]: 1 where it is drawn anew."""
    x0: Tensor
    """Latents of the picture, [C, h, w]."""
    noise: Tensor
    """The noise that the run began with, [C, h, w]."""


@dataclass(eq=False)
class Row:
    """A picture on its way: latents and a position in its own plan."""

    id: int
    generation: Generation
    plan: SamplingPlan
    latents: Tensor
    """[C, h, w]."""
    text: RowText
    negative_text: RowText
    generator: torch.Generator
    """Its own, on the CPU; nobody else draws from it."""
    regions: tuple[dict[int, Tensor] | None, ...]
    """Of each image prompt: where it applies, [1, N, 1] by the number of queries."""
    control_images: tuple[Tensor, ...] = ()
    """Of each control, [3, H, W] in [0, 1]."""
    time_ids: Tensor | None = None
    """float32 [6], what SDXL is told of sizes."""
    extra_channels: Tensor | None = None
    """Channels that an inpainting UNet reads beside the latents: mask and the picture around it, [1 + C, h, w]."""
    inpainting: Inpainting | None = None
    priority: int = 0
    """Higher ones are stepped first where not all fit into a call."""
    position: int = 0
    previous_x0: Tensor | None = None
    """What the step before took for the picture; multistep samplers look back at it."""

    @property
    def coefficients(self) -> Step:
        """Of the step that comes next."""
        return self.plan.steps[self.position]

    @property
    def timestep(self) -> float:
        """Of the step that comes next."""
        return float(self.plan.timesteps[self.position])

    @property
    def steps_left(self) -> int:
        """Steps still to be taken."""
        return len(self.plan) - self.position

    @property
    def active_prompts(self) -> tuple[int, ...]:
        """Which of its image prompts apply to the step that comes next."""
        prompts = enumerate(self.generation.image_prompts)
        return tuple(i for i, prompt in prompts if self.is_within(prompt.start, prompt.end))

    def is_within(self, start: float, end: float) -> bool:
        """Whether the step that comes next lies in a window, by the rule of diffusers' ControlNet pipelines."""
        return self.position / len(self.plan) >= start and (self.position + 1) / len(self.plan) <= end

    def fresh_noise(self) -> Tensor:
        """Noise for the step that comes next, [C, h, w]; zeros where its sampler adds none."""
        if self.coefficients.n == 0:
            return torch.zeros_like(self.latents)
        return torch.randn(self.latents.shape, generator=self.generator).to(self.latents.device)

    def arrived(self, latents: Tensor) -> Tensor:
        """Latents of the next step as they are to be kept: an inpainted row stays what it was around the mask."""
        if self.inpainting is None:
            return latents
        mask, known, noise = self.inpainting
        if self.position + 1 < len(self.plan):
            after = self.plan.steps[self.position + 1]
            known = after.signal * known + after.sigma * noise
        return torch.where(mask > 0, latents, known)

    @property
    def is_guided(self) -> bool:
        """Whether it needs an unconditional prediction."""
        return self.generation.is_guided

    @property
    def is_done(self) -> bool:
        """Whether every step was taken."""
        return self.steps_left == 0


@contextmanager
def drawn_once(rows: Sequence[Row]) -> Iterator[None]:
    """Give generators their state back if the block fails: who tries again draws the same noise."""
    states = [(row.generator, row.generator.get_state()) for row in rows if row.coefficients.n]
    try:
        yield
    except BaseException:
        for generator, state in states:
            generator.set_state(state)
        raise
