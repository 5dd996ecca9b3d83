"""Pictures made of noise, to move away from as a negative image prompt.

The kinds and their ranges are those of ComfyUI_IPAdapter_plus's noise node. Here the randomness is the caller's,
strength 0 always leaves the picture as it is, and `shuffle` is a definition of our own.
"""

from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Generator, Tensor

from nigaoe.core.errors import RequestError
from nigaoe.core.image_prompts.crops import crop_reference

NoiseKind = Literal["fade", "dissolve", "gaussian", "shuffle"]

NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)

MAX_BLUR_PX = 32.0

GRID = 8
"""Blocks of `shuffle` along each side."""


def noise_picture(
    kind: NoiseKind,
    strength: float,
    blur: float,
    generator: Generator,
    image: Image.Image | None = None,
    side: int = 224,
) -> Image.Image:
    """A square RGB picture of `side` px: `image`, centre-cropped (without one: black), turned to noise.

    - fade: the mean of picture and uniform noise, weighted by `strength`;
    - dissolve: a share `strength` of the values, each channel for itself, replaced by uniform noise;
    - gaussian: normal noise of standard deviation `strength` added;
    - shuffle: a share `strength` of 8 x 8 blocks change places, each turned by 180 degrees, then every value x becomes
      x (1 - n) + n with n normal of standard deviation 0.75 `strength`. The original bends the picture elastically
      instead and turns it whole.

    Args:
        kind: Which of these.
        strength: In [0, 1].
        blur: Standard deviation of a Gaussian after the noise, in [0, 32] px. The node's own number is the width of the
            kernel, about 0.15 of which is its standard deviation.
        generator: The only source of randomness.
        image: What to start from.
        side: The encoder's input size, px.

    Raises:
        RequestError: No such kind, or strength, blur or side out of range.
    """
    _require_choices(kind, strength, blur, side)
    start = Image.new("RGB", (side, side)) if image is None else crop_reference(image, "centre", side)[0]
    # A copy: numpy sees PIL's own memory, which may not be written to.
    pixels = torch.from_numpy(np.array(start, np.float32)) / 255
    noisy = _noisy(kind, pixels, strength, generator).clamp(0, 1)
    picture = Image.fromarray((noisy * 255).round().to(torch.uint8).numpy())
    return picture.filter(ImageFilter.GaussianBlur(blur)) if blur else picture


def _require_choices(kind: str, strength: float, blur: float, side: int) -> None:
    if kind not in NOISE_KINDS:
        raise RequestError(f"there is no noise {kind!r}; choose one of {', '.join(NOISE_KINDS)}")
    if not 0.0 <= strength <= 1.0:
        raise RequestError(f"noise strength {strength!r} is outside [0, 1]; give 0 for none and 1 for all")
    if not 0.0 <= blur <= MAX_BLUR_PX:
        raise RequestError(f"noise blur {blur!r} is outside [0, {MAX_BLUR_PX:g}] px; give 0 for none")
    if side < 1:
        raise RequestError(f"a noise picture of {side} px was asked for; give the encoder's input size, at least 1 px")


def _noisy(kind: NoiseKind, pixels: Tensor, strength: float, generator: Generator) -> Tensor:
    """[S, S, 3] in [0, 1] to the same, not yet clamped."""
    if kind == "fade":
        return torch.lerp(pixels, _uniform(pixels, generator), strength)
    if kind == "dissolve":
        return torch.where(_uniform(pixels, generator) < strength, _uniform(pixels, generator), pixels)
    if kind == "gaussian":
        return pixels + strength * _normal(pixels, generator)
    noise = 0.75 * strength * _normal(pixels, generator)
    return _shuffled(pixels, strength, generator) * (1 - noise) + noise


def _shuffled(pixels: Tensor, share: float, generator: Generator) -> Tensor:
    """A random `share` of the blocks change places and are turned; what no whole block covers stays where it is."""
    block = max(1, len(pixels) // GRID)
    count = len(pixels) // block
    covered = count * block
    blocks = pixels[:covered, :covered].reshape(count, block, count, block, 3).transpose(1, 2).flatten(0, 1)
    device = generator.device
    chosen = torch.randperm(len(blocks), generator=generator, device=device).cpu()[: round(share * len(blocks))]
    order = torch.randperm(len(chosen), generator=generator, device=device).cpu()
    moved = blocks.clone()
    moved[chosen] = blocks[chosen[order]].flip(1, 2)
    out = pixels.clone()
    tiled = moved.reshape(count, count, block, block, 3).transpose(1, 2)
    out[:covered, :covered] = tiled.reshape(covered, covered, 3)
    return out


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=generator.device).cpu()


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).cpu()
