"""Prompts to what a UNet reads of them: one CLIP tower for Stable Diffusion 1.x and 2.x, two for XL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


class TextStates(NamedTuple):
    """What text encoders say of prompts."""

    states: Tensor
    """One state per token, float32 [B, T, C]."""
    pooled: Tensor | None = None
    """Summary of the prompt, float32 [B, P]; SDXL alone has one."""

    def silenced(self, rows: Tensor) -> "TextStates":
        """Zeros in the rows marked, bool [B]."""
        pooled = None if self.pooled is None else self.pooled.masked_fill(rows[:, None], 0.0)
        return TextStates(self.states.masked_fill(rows[:, None, None], 0.0), pooled)


@dataclass(frozen=True, eq=False)
class TextTower:
    """A CLIP text model and its tokenizer."""

    model: CLIPTextModel | CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer

    @property
    def length(self) -> int:
        """Tokens per prompt, both ends counted."""
        return int(self.tokenizer.model_max_length)


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """The towers of a base. With two (SDXL) states stand side by side and the second gives the summary."""

    towers: tuple[TextTower, ...]
    empty_is_zero: bool = False
    """SDXL was trained to read zeros, not the encoded empty prompt, where nothing is said."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of every tower, one after the other, int64 [B, towers * T]."""
        return tokenize([tower.tokenizer for tower in self.towers], texts)

    @torch.no_grad()
    def encode_ids(self, ids: Tensor) -> TextStates:
        """Token ids [B, towers * T] to states."""
        parts = ids.split([tower.length for tower in self.towers], dim=1)
        if len(self.towers) == 1:
            model = self.towers[0].model
            return TextStates(model(ids.to(model.device)).last_hidden_state.float())
        seen = [
            tower.model(part.to(tower.model.device), output_hidden_states=True)
            for tower, part in zip(self.towers, parts, strict=True)
        ]
        # The state before the last layer, without the final norm, as SDXL was trained (arXiv 2307.01952, sec. 2.1).
        states = torch.cat([one.hidden_states[-2] for one in seen], dim=-1)
        return TextStates(states.float(), seen[-1].text_embeds.float())

    def encode(self, texts: Sequence[str]) -> TextStates:
        """Prompts to states."""
        return self.encode_ids(self.tokenize(texts))

    def encode_negative(self, texts: Sequence[str]) -> TextStates:
        """Negative prompts to states; an empty one as the base was trained to read it."""
        seen = self.encode(texts)
        if not self.empty_is_zero:
            return seen
        return seen.silenced(torch.tensor([not text for text in texts], device=seen.states.device))


def tokenize(tokenizers: Sequence[CLIPTokenizer], texts: Sequence[str]) -> Tensor:
    """Padded and cut token ids of every tokenizer, side by side, int64 [B, towers * T]; end tokens survive the cut."""
    parts = [
        tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        for tokenizer in tokenizers
    ]
    return torch.cat(parts, dim=1)
