"""Everything random of a sample, from a generator of its own: neither company nor workers change it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nigaoe.train.samples.sampler import seed_of


class Draws(NamedTuple):
    """Of B samples."""

    timesteps: Tensor
    """int64 [B]."""
    noise: Tensor
    """float32 [B, C, h, w]; with the offset where there is one."""
    uniform: Tensor
    """What decides on drops, in [0, 1), float32 [B]."""


def sample_generator(seed: int, position: int) -> torch.Generator:
    """Randomness of the sample at a position of the run: `step * batch_size + index`."""
    return torch.Generator().manual_seed(seed_of("sample", seed, position))


def draw(shape: Sequence[int], weights: Tensor, noise_offset: float, generators: Sequence[torch.Generator]) -> Draws:
    """Draw for latents of a shape [C, h, w]; `weights`: probability of every timestep [T], see `timestep_weights`."""
    noise = torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])
    if noise_offset:
        shifts = [torch.randn(shape[0], 1, 1, generator=generator) for generator in generators]
        noise = noise + noise_offset * torch.stack(shifts)
    where, uniform = torch.stack([torch.rand(2, generator=generator) for generator in generators]).unbind(1)
    # Inverse of the distribution: far quicker than a multinomial per sample.
    timesteps = torch.searchsorted(weights.double().cumsum(0), where.double(), right=True)
    return Draws(timesteps.clamp(max=len(weights) - 1), noise, uniform)
