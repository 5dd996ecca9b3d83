"""Which timesteps a training run looks at more often than others."""

from typing import Literal

import torch
from torch import Tensor

BiasStrategy = Literal["none", "earlier", "later"]


def timestep_weights(
    num_train_timesteps: int, strategy: BiasStrategy = "none", multiplier: float = 1.0, portion: float = 0.25
) -> Tensor:
    """Probability of every timestep, float32 [T].

    `later` draws each of the noisiest `portion` of all timesteps `multiplier` times as often as each of the rest, where
    colours and layout are decided; `earlier` the least noisy ones. The names are those of diffusers' SDXL trainer.
    """
    weights = torch.ones(num_train_timesteps)
    biased = round(num_train_timesteps * portion)
    if strategy == "later":
        weights[num_train_timesteps - biased :] = multiplier
    elif strategy == "earlier":
        weights[:biased] = multiplier
    return weights / weights.sum()


def draw_timesteps(weights: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` timesteps with replacement, int64 [count]."""
    return torch.multinomial(weights, count, replacement=True, generator=generator)
