"""The training objective: noise prediction with an image prompt, conditions dropped now and then."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base
from nigaoe.core.samplers.schedule import NoiseSchedule
from nigaoe.core.unet_call import UNetCall, run_unet
from nigaoe.train.config import DropConfig, LossConfig
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.draws import Draws

COMPILER = MappingProxyType({"layout_optimization": False})
"""With it, inductor of torch 2.13 loses gradients on the CPU; the UNet's weights lie channels last already."""


def drop_masks(uniform: Tensor, drop: DropConfig) -> tuple[Tensor, Tensor]:
    """(image dropped, text dropped) as bool [B] from one uniform draw [B]: image, text, both, or neither."""
    image_only = uniform < drop.image
    text_only = (uniform >= drop.image) & (uniform < drop.image + drop.text)
    both = (uniform >= drop.image + drop.text) & (uniform < drop.image + drop.text + drop.both)
    return image_only | both, text_only | both


def min_snr_weights(schedule: NoiseSchedule, timesteps: Tensor, gamma: float) -> Tensor:
    """Weight of the squared error at timesteps [B]: min(SNR, gamma) on x_0, in whatever the UNet predicts.

    Hang et al. 2023 (arXiv 2303.09556), sec. 3.4.
    """
    alpha_bar = schedule.alpha_bar_at(timesteps)
    snr = alpha_bar / (1 - alpha_bar)
    if schedule.prediction == "epsilon":
        # Not min(SNR, gamma) / SNR, which has no value where the last timestep is pure noise.
        return (gamma / snr).clamp(max=1.0)
    clipped = snr.clamp(max=gamma)
    return clipped if schedule.prediction == "sample" else clipped / (snr + 1)


class AdapterObjective(nn.Module):
    """Loss of a batch. Its parameters are the adapter's; the frozen base is held but not owned."""

    def __init__(
        self,
        adapter: IPAdapter,
        base: Base,
        drop: DropConfig,
        unconditional: Mapping[Feature, Tensor],
        loss: LossConfig | None = None,
        *,
        owns_unet: bool = False,
        compiled: bool = False,
    ) -> None:
        """`unconditional`: what stands for a dropped image, [1, ...] of each feature that the adapter reads.

        `owns_unet`: the frozen UNet is part of the module, so that ZeRO-3 splits its weights over the workers.
        """
        super().__init__()
        self.adapter = adapter
        if owns_unet:
            self.unet = base.unet
        unet: Any = torch.compile(base.unet, options=dict(COMPILER)) if compiled else base.unet
        # In a tuple, so that optimizers, checkpoints and DeepSpeed see the adapter alone.
        self._frozen = (base, unet)
        self._drop, self._loss = drop, loss or LossConfig()
        self._unconditional = {name: value.to(base.device) for name, value in unconditional.items()}
        self._empty_ids = base.text_encoder.tokenize([""]).to(base.device)

    @property
    def precision(self) -> torch.dtype:
        """Of the frozen UNet."""
        dtype: torch.dtype = next(self._frozen[0].unet.parameters()).dtype
        return dtype

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        """Mean of `losses`, float32 scalar."""
        return self.losses(batch, draws).mean()

    def losses(self, batch: Batch, draws: Draws) -> Tensor:
        """Mean squared error of each sample on what the base predicts (epsilon or v), weighted, float32 [B]."""
        base, unet = self._frozen
        batch, draws = moved(batch, draws, base.device)
        image_dropped, text_dropped = drop_masks(draws.uniform, self._drop)
        features = [
            _where(image_dropped, self._unconditional[name], batch.features[name])
            for name in self.adapter.variant.inputs
        ]
        latents = base.scale_latents(batch.latents)
        noisy = base.schedule.add_noise(latents, draws.noise, draws.timesteps)
        text = base.text_encoder.encode_ids(torch.where(text_dropped[:, None], self._empty_ids, batch.token_ids))
        if base.text_encoder.empty_is_zero:
            # What guidance will read for no text.
            text = text.silenced(text_dropped)
        # The LoRAs anew: ZeRO-3 gathers parameters, and what leaves a module's call are views of them.
        prompt = self.adapter(*features)._replace(loras=self.adapter.loras())
        call = UNetCall(
            noisy,
            draws.timesteps,
            text.states,
            image_prompts=(prompt,),
            pooled=text.pooled,
            time_ids=batch.time_ids if base.is_xl else None,
        )
        error = run_unet(unet, call) - base.schedule.target(latents, draws.noise, draws.timesteps)
        losses = error.square().flatten(1).mean(1)
        if self._loss.min_snr_gamma is not None:
            losses = losses * min_snr_weights(base.schedule, draws.timesteps, self._loss.min_snr_gamma)
        return losses


def moved(batch: Batch, draws: Draws, device: torch.device) -> tuple[Batch, Draws]:
    """Both on a device; nothing is copied that is there already, and nothing waits for a copy from pinned memory."""

    def there(x: Tensor) -> Tensor:
        return x.to(device, non_blocking=True)

    features = {name: there(x) for name, x in batch.features.items()}
    on_device = Batch(there(batch.latents), features, there(batch.token_ids), there(batch.time_ids))
    return on_device, Draws(*(there(x) for x in draws))


def _where(dropped: Tensor, none: Tensor, some: Tensor) -> Tensor:
    """Rows of `some` [B, ...], and `none` [1, ...] where `dropped` [B]."""
    return torch.where(dropped.view(-1, *[1] * (some.dim() - 1)), none, some)
