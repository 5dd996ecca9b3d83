"""The training objective: noise prediction with an image prompt, conditions dropped now and then."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base
from nigaoe.core.unet_call import UNetCall, run_unet
from nigaoe.train.config import DropConfig
from nigaoe.train.prepared import Batch


def drop_masks(uniform: Tensor, drop: DropConfig) -> tuple[Tensor, Tensor]:
    """(image dropped, text dropped) as bool [B] from one uniform draw [B]: image, text, both, or neither."""
    image_only = uniform < drop.image
    text_only = (uniform >= drop.image) & (uniform < drop.image + drop.text)
    both = (uniform >= drop.image + drop.text) & (uniform < drop.image + drop.text + drop.both)
    return image_only | both, text_only | both


class AdapterObjective(nn.Module):
    """Loss of a batch. Its parameters are the adapter's; the frozen base is held but not owned."""

    def __init__(
        self, adapter: IPAdapter, base: Base, drop: DropConfig, unconditional: Mapping[Feature, Tensor]
    ) -> None:
        """`unconditional`: what stands for a dropped image, [1, ...] of each feature that the adapter reads."""
        super().__init__()
        self.adapter = adapter
        # In a tuple, so that optimizers, checkpoints and DeepSpeed see the adapter alone.
        self._base = (base,)
        self._drop = drop
        self._unconditional = unconditional
        self._empty_ids = base.text_encoder.tokenize([""])

    def forward(self, batch: Batch, timesteps: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Mean squared error on what the base predicts (epsilon or v), float32 scalar."""
        (base,) = self._base
        image_dropped, text_dropped = drop_masks(uniform, self._drop)
        ids = torch.where(text_dropped[:, None], self._empty_ids, batch.token_ids)
        features = (
            _where(image_dropped, self._unconditional[name], batch.features[name]).to(base.device)
            for name in self.adapter.variant.inputs
        )
        latents = base.scale_latents(batch.latents.to(base.device))
        noise, timesteps = noise.to(base.device), timesteps.to(base.device)
        noisy = base.schedule.add_noise(latents, noise, timesteps)
        text = base.text_encoder.encode_ids(ids)
        call = UNetCall(noisy, timesteps, text.states, image_prompts=(self.adapter(*features),))
        return F.mse_loss(run_unet(base.unet, call), base.schedule.target(latents, noise, timesteps))


def _where(dropped: Tensor, none: Tensor, some: Tensor) -> Tensor:
    """Rows of `some` [B, ...], and `none` [1, ...] where `dropped` [B]."""
    return torch.where(dropped.view(-1, *[1] * (some.dim() - 1)), none, some)
