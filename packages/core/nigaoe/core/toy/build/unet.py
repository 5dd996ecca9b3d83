"""Stage 4: the photo base from nothing, then the anime base as its fine-tune, as community bases are of SD 1.5."""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from nigaoe.core.samplers.timestep_bias import draw_timesteps, timestep_weights
from nigaoe.core.toy.build.training import Progress, WeightAverage, cosine_lr, optimise

log = logging.getLogger(__name__)

BATCH = 24
TEXT_DROP = 0.1


def new_unet(sample_size: int, text_width: int) -> UNet2DConditionModel:
    """The toy UNet, untrained: two levels, cross-attention at both and in the middle."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 104),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=text_width,
        # Diffusers calls the number of heads so for SD 1.x. Few wide heads: small ones are slow on CPUs.
        attention_head_dim=2,
        norm_num_groups=8,
    )


def new_scheduler() -> DDIMScheduler:
    """SD's noise schedule, with v-prediction: at few pixels epsilon says too little at high noise."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


@torch.no_grad()
def encode_captions(text_encoder: CLIPTextModel, ids: Tensor, batch: int = 1024) -> Tensor:
    """Last hidden states, float16 [N, captions, tokens, width]."""
    flat = ids.flatten(0, 1)
    out = [text_encoder(chunk).last_hidden_state.half() for chunk in flat.split(batch)]
    return torch.cat(out).view(*ids.shape, -1)


def train_unet(
    unet: Any, latents: Tensor, text: Tensor, empty_text: Tensor, out: Path, steps: int, peak_lr: float, late: float
) -> None:
    """Denoise latents [N, C, h, w] given one of their captions [N, captions, T, width]; saves the weight average.

    `late` is how many times as often the noisiest quarter of all timesteps is drawn.
    """
    torch.manual_seed(0)
    scheduler = new_scheduler()
    weights = timestep_weights(scheduler.config.num_train_timesteps, "later", late, portion=0.25)
    average, parameters = WeightAverage(unet, 0.9985), list(unet.parameters())
    saved: Any = average.module
    unet.train()
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)
    progress = Progress(out.parent.name, steps)
    for step in range(steps):
        row = torch.randint(len(latents), (BATCH,))
        z, c = latents[row].float(), text[row, torch.randint(text.shape[1], (BATCH,))].float()
        c = torch.where(torch.rand(BATCH, 1, 1) < TEXT_DROP, empty_text, c)
        noise, t = torch.randn_like(z), draw_timesteps(weights, BATCH)
        noisy, target = scheduler.add_noise(z, noise, t), scheduler.get_velocity(z, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = unet(noisy, t, c).sample
        loss = F.mse_loss(prediction.float(), target)
        optimise(optimizer, loss, parameters, cosine_lr(step, steps, peak_lr))
        average.update(unet, step)
        progress(step, loss.item())
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            saved.save_pretrained(out)
