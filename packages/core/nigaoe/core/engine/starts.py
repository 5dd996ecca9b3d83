"""Where a run starts: noise, a picture under noise, or a picture of which a part is drawn anew.

What is drawn from a request's generator, and in which order, is that of diffusers' pipelines: the same seed gives the
same picture there. It is drawn on the CPU: what a seed gives depends neither on the device nor on the company.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import Generation, Inpainting
from nigaoe.core.errors import RequestError
from nigaoe.core.pixels import to_tensor
from nigaoe.core.samplers.plan import SamplingPlan


class Start(NamedTuple):
    """The state of a row before its first step."""

    latents: Tensor
    """[C, h, w]."""
    inpainting: Inpainting | None = None
    extra_channels: Tensor | None = None
    """Channels that an inpainting UNet reads beside the latents, [1 + C, h, w]."""


def skipped_steps(generation: Generation) -> int:
    """Steps at the beginning that a strength below 1 leaves out, by the rule of diffusers."""
    if generation.init_image is None:
        return 0
    return max(generation.steps - min(int(generation.steps * generation.strength), generation.steps), 0)


def start(
    base: Base, generation: Generation, plan: SamplingPlan, size: tuple[int, int], generator: torch.Generator
) -> Start:
    """The start of a picture of `size` (width, height)."""
    width, height = size
    shape = (1, base.latent_channels, height // base.vae_factor, width // base.vae_factor)

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator).to(base.device)

    if generation.init_image is None:
        return Start(draw()[0] * plan.initial_sigma)
    pixels = to_tensor(generation.init_image)[None]
    if generation.inpaint_mask is None:
        x0 = _encode(base, pixels, draw())
        return Start(_noised(plan, x0, draw())[0])
    mask = _binary(generation.inpaint_mask)
    small = F.interpolate(mask, size=shape[2:]).to(base.device)
    is_whole = generation.strength == 1.0
    x0 = torch.zeros(shape, device=base.device) if base.is_inpainting and is_whole else _encode(base, pixels, draw())
    noise = draw()
    latents = noise * plan.initial_sigma if is_whole else _noised(plan, x0, noise)
    second = draw()
    if base.is_inpainting:
        around = _encode(base, pixels * (mask < 0.5), second)
        return Start(latents[0], extra_channels=torch.cat([small, around], dim=1)[0])
    return Start(latents[0], inpainting=Inpainting(small[0], x0[0], noise[0]))


def _encode(base: Base, pixels: Tensor, noise: Tensor) -> Tensor:
    mean, log_variance = base.encode_images(pixels)
    return base.scale_latents(mean + torch.exp(0.5 * log_variance) * noise)


def _noised(plan: SamplingPlan, x0: Tensor, noise: Tensor) -> Tensor:
    first = plan.steps[0]
    return first.signal * x0 + first.sigma * noise


def _binary(mask: Image.Image) -> Tensor:
    """A mask as [1, 1, H, W] of 0 and 1."""
    if "A" in mask.getbands() or "transparency" in mask.info:
        # Some editors mean "draw here" by it, others "keep".
        raise RequestError(
            "inpaint_mask has transparency, which is used both ways; give a grey one, white where to draw"
        )
    grey = torch.from_numpy(np.array(mask.convert("L"), np.float32)) / 255
    return (grey >= 0.5).float()[None, None]
