"""Requests and the rows they become."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nigaoe.core.attention import AttentionLora, ImagePrompt
from nigaoe.core.samplers.plan import SamplingPlan, Step
from nigaoe.core.samplers.registry import SamplerName


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
    sampler: SamplerName = "ddim"
    width: int | None = None
    """Pixels; None: the base's own."""
    height: int | None = None


@dataclass(eq=False)
class Row:
    """A picture on its way: latents and a position in its own plan."""

    id: int
    generation: Generation
    plan: SamplingPlan
    latents: Tensor
    """[C, h, w]."""
    text: Tensor
    """[T, C]; with its unconditional twin below."""
    negative_text: Tensor
    generator: torch.Generator
    """Its own, on the CPU; nobody else draws from it."""
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

    def fresh_noise(self) -> Tensor:
        """Noise for the step that comes next, [C, h, w]; zeros where its sampler adds none."""
        if self.coefficients.n == 0:
            return torch.zeros_like(self.latents)
        return torch.randn(self.latents.shape, generator=self.generator).to(self.latents.device)

    @property
    def is_guided(self) -> bool:
        """Whether it needs an unconditional prediction."""
        return self.generation.guidance_scale != 1.0

    @property
    def is_done(self) -> bool:
        """Whether every step was taken."""
        return self.steps_left == 0


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
