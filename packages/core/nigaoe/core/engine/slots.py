"""Image prompts of many rows in one call: the i-th of each row side by side, absent ones silent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nigaoe.core.attention import AttentionLora, ImagePrompt


def stack_image_prompts(rows: Sequence[Sequence[ImagePrompt]]) -> tuple[ImagePrompt, ...]:
    """For every row of a call its prompts, one row each; any number of them and of tokens. No prompts give no slots."""
    count = max((len(prompts) for prompts in rows), default=0)
    slots = [_stack([prompts[i] if i < len(prompts) else None for prompts in rows]) for i in range(count)]
    if slots:
        # A LoRA changes a row's weights once, however many of its prompts came with it: so it is not the slots' own.
        slots[0] = slots[0]._replace(loras=_stack_loras(rows))
    return tuple(slots)


def _stack(prompts: Sequence[ImagePrompt | None]) -> ImagePrompt:
    present = [p for p in prompts if p is not None]
    longest = max(p.num_tokens for p in present)
    layers = range(len(present[0].keys))
    keys = tuple(torch.cat([_padded(p and p.keys[i], longest, present[0].keys[i]) for p in prompts]) for i in layers)
    values = tuple(
        torch.cat([_padded(p and p.values[i], longest, present[0].values[i]) for p in prompts]) for i in layers
    )
    mask = _stack_masks(prompts, longest, keys[0].device)
    return ImagePrompt(keys, values, mask, regions=_stack_regions(prompts))


def _padded(x: Tensor | None, length: int, like: Tensor) -> Tensor:
    if x is None:
        # A row without an image meets zero values: its image attention is exactly zero.
        return like.new_zeros(1, length, like.shape[2])
    return torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[1]))


def _stack_masks(prompts: Sequence[ImagePrompt | None], length: int, device: torch.device) -> Tensor | None:
    if not any(p is not None and (p.num_tokens < length or p.mask is not None) for p in prompts):
        return None
    mask = torch.ones(len(prompts), length, dtype=torch.bool, device=device)
    for i, p in enumerate(prompts):
        if p is not None:
            mask[i, : p.num_tokens] = True if p.mask is None else p.mask[0]
            mask[i, p.num_tokens :] = False
    return mask


def _stack_regions(prompts: Sequence[ImagePrompt | None]) -> dict[int, Tensor] | None:
    bounded = [p.regions for p in prompts if p is not None and p.regions is not None]
    if not bounded:
        return None

    def of(prompt: ImagePrompt | None, queries: int, like: Tensor) -> Tensor:
        return torch.ones_like(like) if prompt is None or prompt.regions is None else prompt.regions[queries]

    return {queries: torch.cat([of(p, queries, like) for p in prompts]) for queries, like in bounded[0].items()}


def _stack_loras(rows: Sequence[Sequence[ImagePrompt]]) -> tuple[AttentionLora, ...]:
    """One LoRA per set of weights, for the rows that brought it; the others do not pass through it at all."""
    members: dict[int, list[tuple[int, AttentionLora]]] = {}
    for i, prompts in enumerate(rows):
        for lora in {lora.weights_id: lora for prompt in prompts for lora in prompt.loras}.values():
            members.setdefault(lora.weights_id, []).append((i, lora))
    return tuple(_joined(some) for some in members.values())


def _joined(members: list[tuple[int, AttentionLora]]) -> AttentionLora:
    lora = members[0][1]
    scales = torch.tensor([float(member.scale) for _, member in members], device=lora.device)
    # Rows by number, even where they are all: so one more row that joins is no other kind of call.
    return lora._replace(scale=scales, rows=torch.tensor([i for i, _ in members], device=lora.device))
