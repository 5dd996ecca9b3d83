"""Loss by band of timesteps: one number for all of them hides what happens where the noise is weak."""

from collections.abc import Iterable, Sequence

import torch

from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.draws import Draws
from nigaoe.train.samples.sampler import seed_of

BANDS = 4


@torch.no_grad()
def band_losses(
    objective: AdapterObjective,
    batches: Iterable[tuple[Sequence[str], Batch]],
    count: int,
    train_timesteps: int,
    seed: int,
) -> dict[str, float]:
    """Mean loss in each band over all rows, `loss_t000_250` and so on, and `validation_loss`, the mean of these.

    Every row is measured once in every band; the `count` rows' timesteps are spread evenly over it. Noise is a function
    of seed, row and band, so that losses of two checkpoints differ by the checkpoints alone.
    """
    edges = [train_timesteps * band // BANDS for band in range(BANDS + 1)]
    sums, seen = torch.zeros(BANDS, dtype=torch.float64), 0
    for keys, batch in batches:
        # In the middle of each row's part of the band.
        places = (torch.arange(seen, seen + len(keys), dtype=torch.float64) + 0.5) / count
        for band in range(BANDS):
            low, high = edges[band], edges[band + 1]
            noise = torch.stack([_noise(batch, seed, key, band) for key in keys])
            draws = Draws((low + places * (high - low)).long(), noise, torch.ones(len(keys)))
            sums[band] += objective.losses(batch, draws).double().sum().cpu()
        seen += len(keys)
    losses = (sums / seen).tolist()
    named = {f"loss_t{low:03d}_{high:03d}": loss for low, high, loss in zip(edges, edges[1:], losses, strict=False)}
    return {"validation_loss": sum(losses) / BANDS, **named}


def _noise(batch: Batch, seed: int, key: str, band: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed_of("validation", seed, key, band))
    return torch.randn(batch.latents.shape[1:], generator=generator)
