"""Requests and the rows they become."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nigaoe.core.attention import AttentionLora, ImagePrompt


@dataclass(frozen=True)
class GuidedImagePrompt:
    """An image prompt and its unconditional twin, one row each, scale folded in."""

    conditional: ImagePrompt
    unconditional: ImagePrompt


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One picture that somebody wants."""

    prompt: str
    negative_prompt: str = ""
    image_prompt: GuidedImagePrompt | None = None
    seed: int = 0
    steps: int = 25
    guidance_scale: float = 7.5
    width: int | None = None
    """Pixels; None: the base's own."""
    height: int | None = None


@dataclass(eq=False)
class Row:
    """A picture on its way: latents and a position in its own schedule."""

    id: int
    generation: Generation
    latents: Tensor
    """[C, h, w]."""
    timesteps: list[int]
    text: Tensor
    """[T, C]; with its unconditional twin below."""
    negative_text: Tensor
    position: int = field(default=0)

    @property
    def is_guided(self) -> bool:
        """Whether it needs an unconditional prediction."""
        return self.generation.guidance_scale != 1.0

    @property
    def is_done(self) -> bool:
        """Whether every step was taken."""
        return self.position >= len(self.timesteps)


def initial_noise(generation: Generation, shape: tuple[int, int, int]) -> Tensor:
    """Noise that depends on the seed alone: not on the device, nor on who else is in the batch."""
    generator = torch.Generator("cpu").manual_seed(generation.seed)
    return torch.randn(shape, generator=generator)


def stack_image_prompts(prompts: list[ImagePrompt | None]) -> ImagePrompt | None:
    """One batch of prompts of different length; None attends to nothing. All None gives None."""
    present = [p for p in prompts if p is not None]
    if not present:
        return None
    longest = max(p.num_tokens for p in present)
    needs_mask = any(p is not None and (p.num_tokens < longest or p.mask is not None) for p in prompts)

    def padded(x: Tensor | None, like: Tensor) -> Tensor:
        if x is None:
            # A row without an image meets zero values: its image attention is exactly zero.
            return like.new_zeros(1, longest, like.shape[2])
        return torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1]))

    layers = range(len(present[0].keys))
    keys = tuple(torch.cat([padded(p and p.keys[i], present[0].keys[i]) for p in prompts]) for i in layers)
    values = tuple(torch.cat([padded(p and p.values[i], present[0].values[i]) for p in prompts]) for i in layers)
    loras = _stack_loras(prompts)
    if not needs_mask:
        return ImagePrompt(keys, values, loras=loras)
    mask = torch.ones(len(prompts), longest, dtype=torch.bool, device=keys[0].device)
    for i, p in enumerate(prompts):
        if p is not None:
            mask[i, : p.num_tokens] = True if p.mask is None else p.mask[0]
            mask[i, p.num_tokens :] = False
    return ImagePrompt(keys, values, mask, loras)


def _stack_loras(prompts: list[ImagePrompt | None]) -> tuple[AttentionLora, ...]:
    """One LoRA per set of weights, for the rows that brought it; the others do not pass through it at all."""
    owners: dict[int, tuple[AttentionLora, list[int]]] = {}
    for i, prompt in enumerate(prompts):
        for lora in prompt.loras if prompt is not None else ():
            owners.setdefault(lora.key, (lora, []))[1].append(i)

    def stacked(lora: AttentionLora, rows: list[int]) -> AttentionLora:
        some = next(pair.down for layer in lora.layers for pair in layer.values())
        return lora._replace(rows=None if len(rows) == len(prompts) else torch.tensor(rows, device=some.device))

    return tuple(stacked(lora, rows) for lora, rows in owners.values())
