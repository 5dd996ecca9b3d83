"""The noise schedule of a base, as numbers. Conventions follow the base's own `scheduler_config.json`."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from nigaoe.core.errors import RequestError

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_bar over training timesteps and how the UNet speaks of noise."""

    alpha_bar: Tensor
    """float32 [T], falling."""
    prediction: Prediction
    final_alpha_bar: float
    """alpha_bar before timestep 0."""
    config: dict[str, Any]
    """The scheduler config it was read from."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NoiseSchedule":
        """Read a diffusers scheduler config, of whatever scheduler class."""
        scheduler = DDIMScheduler.from_config(config)
        return cls(
            alpha_bar=scheduler.alphas_cumprod.float(),
            prediction=scheduler.config.prediction_type,
            final_alpha_bar=float(scheduler.final_alpha_cumprod),
            config=dict(config),
        )

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alpha_bar)

    def alpha_bar_at(self, t: Tensor) -> Tensor:
        """alpha_bar at timesteps [B]; below 0, the final one."""
        alpha_bar = self.alpha_bar.to(t.device)
        return torch.where(t >= 0, alpha_bar[t.clamp(min=0)], torch.full_like(alpha_bar[:1], self.final_alpha_bar))

    def alpha_bar_of(self, t: int) -> float:
        """alpha_bar at one timestep; below 0, the final one.

        Raises:
            RequestError: Under some spacings an offset pushes the first of very many steps beyond the last timestep.
        """
        if t >= self.num_train_timesteps:
            raise RequestError(f"so many steps begin at timestep {t}, which this base never saw; choose fewer steps")
        return float(self.alpha_bar[t]) if t >= 0 else self.final_alpha_bar

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean latents [B, C, h, w] at timesteps [B]."""
        a = self.alpha_bar_at(t).view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the UNet should say: noise, v (Salimans & Ho 2022, sec. 4) or x_0."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x0
        a = self.alpha_bar_at(t).view(-1, 1, 1, 1)
        return a.sqrt() * noise - (1 - a).sqrt() * x0
