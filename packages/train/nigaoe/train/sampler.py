"""Which rows a worker sees at which step: a function of seed and step alone, so a resumed run sees the same."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, rows: int) -> Tensor:
    """Permutation of the rows in one epoch, int64 [rows]."""
    generator = torch.Generator().manual_seed(_mix("order", seed, epoch))
    return torch.randperm(rows, generator=generator)


def rows_at(step: int, rank: int, world_size: int, batch_size: int, rows: int, seed: int) -> Tensor:
    """Rows of one worker's batch, int64 [batch_size]. Every epoch visits every row once, across all workers."""
    first = (step * world_size + rank) * batch_size
    positions = range(first, first + batch_size)
    return torch.stack([epoch_order(seed, p // rows, rows)[p % rows] for p in positions])


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """Randomness of one step on one worker: noise, timesteps, drops, captions."""
    return torch.Generator().manual_seed(_mix("step", seed, step, rank))


def _mix(*parts: object) -> int:
    """A 63-bit seed of its parts, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
