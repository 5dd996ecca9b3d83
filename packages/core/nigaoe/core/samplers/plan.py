"""A run of any sampler as a table of numbers: every step is affine in tensors that a row has anyway.

    x_0 = p x_t + q output                                   (what the UNet's output implies)
    x_s = a x_t + b x_0 + c x_0' + n noise                   (x_0': the x_0 of the step before)

So rows of different samplers, schedules and positions are stepped by one expression with per-row coefficients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nigaoe.core.samplers.schedule import Prediction


class Step(NamedTuple):
    """Coefficients of one step."""

    p: float
    q: float
    a: float
    b: float
    c: float = 0.0
    n: float = 0.0
    scale: float = 1.0
    """By which x_t is multiplied before the UNet sees it."""
    signal: float = 1.0
    """x_t = signal x_0 + sigma noise."""
    sigma: float = 0.0


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """All steps of a run."""

    timesteps: Tensor
    """What the UNet is told, float32 [steps]; some samplers stand between two training timesteps."""
    steps: tuple[Step, ...]
    initial_sigma: float
    """Standard deviation of the noise that a run starts from, if it starts from nothing else."""

    def __len__(self) -> int:
        return len(self.steps)


def affine_step(
    x: Tensor, output: Tensor, previous_x0: Tensor, noise: Tensor, steps: Sequence[Step]
) -> tuple[Tensor, Tensor]:
    """One step of rows [B, C, h, w], each by its own coefficients: the next x and this step's x_0."""
    table = torch.tensor([step[:6] for step in steps], dtype=torch.float32, device=x.device)
    p, q, a, b, c, n = (column.view(-1, 1, 1, 1) for column in table.unbind(1))
    x0 = p * x + q * output
    return a * x + b * x0 + c * previous_x0 + n * noise, x0


def implied_x0(alpha: float, sigma: float, kind: Prediction) -> tuple[float, float]:
    """(p, q) of x_t = alpha x_0 + sigma noise with alpha^2 + sigma^2 = 1, for what the UNet predicts."""
    if kind == "epsilon":
        return 1 / alpha, -sigma / alpha
    if kind == "sample":
        return 0.0, 1.0
    return alpha, -sigma
