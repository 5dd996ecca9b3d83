"""What a base can be asked for. Each refusal names the value, what was expected and what to do."""

import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nigaoe.core.attention import AttentionLora, ImagePrompt, attention_layers, projection_widths
from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.engine.starts import skipped_steps
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
    if generation.inpaint_mask is not None:
        if generation.init_image is None:
            raise RequestError("inpaint_mask was given without init_image, of which a part is to stay; give both")
        _check_same_size("inpaint_mask", generation.inpaint_mask, size)
    elif base.is_inpainting:
        raise RequestError(
            f"base {base.name!r} is one for inpainting; give init_image and inpaint_mask, or use another base"
        )
    for control in generation.controls:
        control.net.require_fit(base.unet, base.vae_factor)
        _check_same_size("the image of a control", control.image, size)
        _check_window(control.start, control.end)
        if not math.isfinite(control.scale):
            raise RequestError(f"scale {control.scale:g} of a control is no finite number; give one, 0 for none")
    for prompt in generation.image_prompts:
        _check_prompt(base, prompt, size)
        _check_some_step_within(generation, prompt.start, prompt.end)
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
    if width * height > MOST_PIXELS:
        raise RequestError(
            f"a picture of {width}x{height} px is larger than the 4096x4096 allowed; ask for a smaller one"
        )
    return width, height


MOST_PIXELS = 4096 * 4096
"""Of one picture: beyond it one request could take all memory."""


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


def _check_some_step_within(generation: Generation, start: float, end: float) -> None:
    count = generation.steps - skipped_steps(generation)
    if not any(i / count >= start and (i + 1) / count <= end for i in range(count)):
        raise RequestError(
            f"start {start:g} and end {end:g} hold no whole step of {count}, so the image prompt would be silent; "
            "widen the window or take more steps"
        )


def _check_prompt(base: Base, prompt: GuidedImagePrompt, size: Size) -> None:
    _check_window(prompt.start, prompt.end)
    for side in (prompt.conditional, prompt.unconditional):
        _check_layers(base, side)
    if prompt.mask is None:
        return
    width, height = size
    if prompt.mask.dim() != 2:
        raise RequestError(
            f"the mask of an image prompt has {prompt.mask.dim()} axes, of sizes {list(prompt.mask.shape)}; give [H, W]"
        )
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
    tokens = {layer.shape[1] for layer in (*prompt.keys, *prompt.values)}
    if len(tokens) > 1 or (prompt.mask is not None and prompt.mask.shape[1] not in tokens):
        raise AdapterError(
            f"an image prompt has keys, values or a mask of {sorted(tokens)} tokens; give as many of each"
        )
    for lora in prompt.loras:
        _check_lora(base, lora)
    rows = max(len(layer) for layer in (*prompt.keys, *prompt.values))
    if rows != 1:
        # Side by side with those of other pictures, they would be taken for theirs.
        raise AdapterError(f"an image prompt has {rows} rows, a picture has one; make a prompt of each or concatenate")
    if not bool(torch.stack([torch.isfinite(layer).all() for layer in (*prompt.keys, *prompt.values)]).all()):
        raise AdapterError("an image prompt has keys or values that are not numbers; check the adapter and its scale")


def _check_lora(base: Base, lora: AttentionLora) -> None:
    ours = [{t: (p.down.shape[1], p.up.shape[0]) for t, p in pairs.items()} for pairs in lora.layers]
    theirs = [projection_widths(attn) for attn in attention_layers(base.unet)]
    is_fit = len(ours) == len(theirs) and all(a.items() <= b.items() for a, b in zip(ours, theirs, strict=True))
    if not is_fit:
        raise AdapterError(
            f"an image prompt brings a LoRA for {len(ours)} attention layers, base {base.name!r} has {len(theirs)}, or "
            "of other widths; make it with an adapter of this architecture"
        )
    if lora.device.type != base.device.type:
        raise AdapterError(
            f"an image prompt's LoRA is on {lora.device}, base {base.name!r} on {base.device}; move the adapter there"
        )
