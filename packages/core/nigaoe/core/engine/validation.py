"""What a base can be asked for. Each refusal names the value, what was expected and what to do."""

import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nigaoe.core.attention import ImagePrompt
from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.errors import AdapterError, RequestError
from nigaoe.core.samplers.registry import SAMPLERS

Size = tuple[int, int]
"""(width, height), px."""


def validated_size(base: Base, generation: Generation) -> Size:
    """The size of the picture, after every other field was looked at.

    Raises:
        RequestError: A field that the base cannot do.
        AdapterError: An image prompt made for another base, or with a mask of another size.
    """
    size = _size(base, generation)
    _check_numbers(base, generation)
    if generation.init_image is not None:
        _check_same_size("init_image", generation.init_image, size)
    if generation.repaint is not None:
        if generation.init_image is None:
            raise RequestError("repaint was given without init_image, the picture of which a part stays; give both")
        _check_same_size("repaint", generation.repaint, size)
    elif base.is_inpainting:
        raise RequestError(f"base {base.name!r} is one for inpainting; give init_image and repaint, or another base")
    for control in generation.controls:
        control.net.require_fit(base.unet)
        _check_same_size("the image of a control", control.image, size)
        _check_window(control.start, control.end)
        if not math.isfinite(control.scale):
            raise RequestError(f"scale {control.scale:g} of a control is no finite number; give one, 0 for none")
    for prompt in generation.image_prompts:
        _check_prompt(base, prompt, size)
    return size


def regions(base: Base, mask: Tensor | None, size: Size) -> dict[int, Tensor] | None:
    """A mask [H, W] at every resolution that the UNet attends at, [1, N, 1] by the number N of queries.

    Each query gets the mean of the mask over the pixels that it stands for, so soft masks stay soft.
    """
    if mask is None:
        return None
    width, height = size
    levels = {}
    for i in range(len(base.unet.config.block_out_channels)):
        side = base.vae_factor * 2**i
        small = F.avg_pool2d(mask[None, None].float(), side)
        assert small.shape[2:] == (height // side, width // side)
        levels[small[0, 0].numel()] = small.flatten()[None, :, None].to(base.device)
    return levels


def _size(base: Base, generation: Generation) -> Size:
    own = (base.default_size_px, base.default_size_px)
    default_width, default_height = generation.init_image.size if generation.init_image is not None else own
    width = default_width if generation.width is None else generation.width
    height = default_height if generation.height is None else generation.height
    for name, side in (("width", width), ("height", height)):
        if side <= 0 or side % base.size_multiple:
            raise RequestError(
                f"{name} {side} is not a positive multiple of {base.size_multiple}, which base {base.name!r} needs; "
                "choose one"
            )
    return width, height


def _check_numbers(base: Base, generation: Generation) -> None:
    limit = base.schedule.num_train_timesteps
    if not 1 <= generation.steps <= limit:
        raise RequestError(f"steps {generation.steps} is outside [1, {limit}] of this base; choose a number between")
    if not 0 <= generation.seed < 2**64:
        raise RequestError(f"seed {generation.seed} is outside [0, 2^64); choose a number between")
    if generation.sampler not in SAMPLERS:
        raise RequestError(f"there is no sampler {generation.sampler!r}; choose one of {', '.join(SAMPLERS)}")
    if not math.isfinite(generation.guidance_scale):
        raise RequestError(
            f"guidance_scale {generation.guidance_scale} is no finite number; give one, 1 for no guidance"
        )
    if not 0 <= generation.strength <= 1:
        raise RequestError(f"strength {generation.strength:g} is outside [0, 1]; choose a number between")
    if generation.init_image is not None and int(generation.steps * generation.strength) < 1:
        raise RequestError(
            f"strength {generation.strength:g} of {generation.steps} steps leaves no step to take; raise one of them"
        )


def _check_same_size(name: str, image: Image.Image, size: Size) -> None:
    if image.size != size:
        raise RequestError(
            f"{name} is {image.width}x{image.height} px, the picture {size[0]}x{size[1]}; resize it or ask for its size"
        )


def _check_window(start: float, end: float) -> None:
    if not 0 <= start < end <= 1:
        raise RequestError(f"start {start:g} and end {end:g} are no window in [0, 1]; choose start below end")


def _check_prompt(base: Base, prompt: GuidedImagePrompt, size: Size) -> None:
    _check_window(prompt.start, prompt.end)
    for side in (prompt.conditional, prompt.unconditional):
        _check_layers(base, side)
    if prompt.mask is None:
        return
    width, height = size
    if tuple(prompt.mask.shape) != (height, width):
        given = "x".join(str(n) for n in reversed(prompt.mask.shape))
        raise RequestError(f"the mask of an image prompt is {given} px, the picture {width}x{height}; resize the mask")
    low, high = float(prompt.mask.min()), float(prompt.mask.max())
    if not (low >= 0 and high <= 1):
        raise RequestError(f"the mask of an image prompt lies in [{low:g}, {high:g}], not in [0, 1]; rescale it")


def _check_layers(base: Base, prompt: ImagePrompt) -> None:
    theirs = [attn.to_k.out_features for attn in base.cross_attention]
    ours = [keys.shape[-1] for keys in prompt.keys]
    if ours != theirs:
        raise AdapterError(
            f"an image prompt has keys for {len(ours)} layers of widths up to {max(ours)}, base {base.name!r} has "
            f"{len(theirs)} up to {max(theirs)}; make it with an adapter of this architecture"
        )
    rows = max(len(layer) for layer in (*prompt.keys, *prompt.values))
    if rows != 1:
        # Side by side with those of other pictures, they would be taken for theirs.
        raise AdapterError(f"an image prompt has {rows} rows, a picture has one; make a prompt of each or concatenate")
    if not all(bool(torch.isfinite(layer).all()) for layer in (*prompt.keys, *prompt.values)):
        raise AdapterError("an image prompt has keys or values that are not numbers; check the adapter and its scale")
