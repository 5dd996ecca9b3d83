"""Rows as the inputs of one UNet call."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nigaoe.core.attention import ImagePrompt, KeysValues
from nigaoe.core.engine.rows import Row, RowText
from nigaoe.core.engine.slots import stack_image_prompts
from nigaoe.core.text_encoders import TextStates
from nigaoe.core.unet_call import UNetCall

BatchKey = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """What stays the same while the same rows say the same: built once, not per step. P: rows of the UNet call."""

    rows: tuple[Row, ...]
    owner: Tensor
    """int64 [P]: which row each UNet row belongs to; guided rows own two."""
    unconditional: Tensor
    """int64 [rows]: UNet row of the unconditional prediction (its own when unguided)."""
    conditional: Tensor
    guidance: Tensor
    """float32 [rows, 1, 1, 1]."""
    text: RowText
    image_prompts: tuple[ImagePrompt, ...]
    time_ids: Tensor | None
    extra_channels: Tensor | None

    def call(self, latents: Tensor) -> UNetCall:
        """The UNet call for scaled latents [rows, C, h, w]."""
        timesteps = torch.tensor([row.timestep for row in self.rows], device=latents.device)
        sample = latents if self.extra_channels is None else torch.cat([latents, self.extra_channels], dim=1)
        return UNetCall(
            sample=sample[self.owner],
            timesteps=timesteps[self.owner],
            text_states=self.text.encoded.states,
            image_prompts=self.image_prompts,
            text=self.text.keys_values,
            pooled=self.text.encoded.pooled,
            time_ids=self.time_ids,
        )

    def guided(self, prediction: Tensor) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598): the prediction of each row from those of its UNet rows."""
        unconditional, conditional = prediction[self.unconditional], prediction[self.conditional]
        return unconditional + self.guidance * (conditional - unconditional)


def batch_key(rows: tuple[Row, ...]) -> BatchKey:
    """Equal while a batch may be used again."""
    return tuple((row.id, row.active_prompts) for row in rows)


def pack(rows: tuple[Row, ...]) -> Batch:
    """Lay rows side by side."""
    owner: list[int] = []
    unconditional: list[int] = []
    conditional: list[int] = []
    text: list[RowText] = []
    prompts: list[list[ImagePrompt]] = []
    for i, row in enumerate(rows):
        if row.is_guided:
            unconditional.append(len(owner))
            owner.append(i)
            text.append(row.negative_text)
            prompts.append(_active_prompts(row, is_conditional=False))
        conditional.append(len(owner))
        if not row.is_guided:
            unconditional.append(len(owner))
        owner.append(i)
        text.append(row.text)
        prompts.append(_active_prompts(row, is_conditional=True))
    device = rows[0].latents.device
    guidance = torch.tensor([row.generation.guidance_scale for row in rows], device=device)
    time_ids = _stacked([row.time_ids for row in rows])
    owners = torch.tensor(owner, device=device)
    return Batch(
        rows=rows,
        owner=owners,
        unconditional=torch.tensor(unconditional, device=device),
        conditional=torch.tensor(conditional, device=device),
        guidance=guidance.view(-1, 1, 1, 1),
        text=_stack_text(text),
        image_prompts=stack_image_prompts(prompts),
        time_ids=None if time_ids is None else time_ids[owners],
        extra_channels=_stacked([row.extra_channels for row in rows]),
    )


def _active_prompts(row: Row, *, is_conditional: bool) -> list[ImagePrompt]:
    chosen = []
    for i in row.active_prompts:
        guided = row.generation.image_prompts[i]
        prompt = guided.conditional if is_conditional else guided.unconditional
        chosen.append(prompt._replace(regions=row.regions[i]))
    return chosen


def _stack_text(texts: list[RowText]) -> RowText:
    pooled = [text.encoded.pooled for text in texts if text.encoded.pooled is not None]
    sides = [
        tuple(torch.cat(layer) for layer in zip(*(text.keys_values[side] for text in texts), strict=True))
        for side in (0, 1)
    ]
    return RowText(
        TextStates(torch.cat([text.encoded.states for text in texts]), torch.cat(pooled) if pooled else None),
        KeysValues(*sides),
    )


def _stacked(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.stack(present) if present else None
