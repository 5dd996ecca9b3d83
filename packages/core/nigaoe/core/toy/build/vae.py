"""Stage 1: the autoencoder both bases share. 96 px to 12 x 12 x 8."""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from nigaoe.core.toy.build.dataset import Pictures
from nigaoe.core.toy.build.training import Progress, WeightAverage, cosine_lr, optimise
from nigaoe.core.toy.people import Style
from nigaoe.core.toy.render import SIZE_PX

log = logging.getLogger(__name__)

BATCH = 8
KL_WEIGHT = 1e-3
LATENT_NOISE = 0.1
"""Noise on unit-variance latents while the decoder is refined, so that it forgives an imperfect UNet."""


def new_vae() -> AutoencoderKL:
    """The toy autoencoder, untrained."""
    channels = (16, 32, 64, 64)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE_PX,
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + L2 on pixels and L1 on their differences, which is what keeps ink lines sharp."""
    residual = output - target
    edges = (residual[..., 1:] - residual[..., :-1]).abs().mean() + (
        residual[..., 1:, :] - residual[..., :-1, :]
    ).abs().mean()
    return residual.abs().mean() + residual.pow(2).mean() + 0.7 * edges


def train_vae(photo: Pictures, anime: Pictures, out: Path, steps: int) -> None:
    """Train encoder and decoder together; the scaling factor makes latents unit variance."""
    torch.manual_seed(0)
    vae = new_vae()
    average, parameters = WeightAverage(vae, 0.998), list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-3)
    progress = Progress("vae", steps)
    for step in range(steps):
        x = torch.cat([p.floats(torch.randint(len(p.images), (BATCH // 2,))) for p in (photo, anime)])
        if step % 2:
            x = x.flip(3)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            output = vae.decode(posterior.sample()).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        loss = reconstruction_loss(output.float(), x) + KL_WEIGHT * kl
        optimise(optimizer, loss, parameters, cosine_lr(step, steps, 2e-3))
        average.update(vae, step)
        progress(step, loss.item())
        if (step + 1) % 1000 == 0:
            save_vae(average.module, photo, anime, out)
    save_vae(average.module, photo, anime, out)


def save_vae(vae: AutoencoderKL, photo: Pictures, anime: Pictures, out: Path) -> None:
    """Save with the scaling factor that makes latents unit variance; logs PSNR."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = torch.cat([p.floats(torch.arange(min(100, len(p.images)))) for p in (photo, anime)])
        z = vae.encode(x).latent_dist.mean.float()
        psnr = 10 * torch.log10(4 / (vae.decode(z).sample.float() - x).pow(2).mean((1, 2, 3)))
    vae.register_to_config(scaling_factor=float(1 / z.std()))
    log.info("vae PSNR photo %.1f anime %.1f dB", *(half.mean() for half in psnr.chunk(2)))
    vae.save_pretrained(out)


def refine_decoder(
    photo: Pictures, anime: Pictures, latents: dict[Style, Tensor], source: Path, out: Path, steps: int
) -> None:
    """Train the decoder alone on noised, stored latents; the latent space stays as the UNets know it."""
    torch.manual_seed(1)
    vae = AutoencoderKL.from_pretrained(source)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    average, parameters = WeightAverage(vae, 0.998), [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-3)
    progress = Progress("decoder", steps)
    for step in range(steps):
        index = torch.randint(len(photo.images), (BATCH // 2,)), torch.randint(len(anime.images), (BATCH // 2,))
        x = torch.cat([photo.floats(index[0]), anime.floats(index[1])])
        z = torch.cat([latents["photo"][index[0]], latents["anime"][index[1]]]).float()
        z = z + LATENT_NOISE * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(z)
        with torch.autocast("cpu", torch.bfloat16):
            output = vae.decode(z / vae.config.scaling_factor).sample
        loss = reconstruction_loss(output.float(), x)
        optimise(optimizer, loss, parameters, cosine_lr(step, steps, 1.2e-3))
        average.update(vae, step)
        progress(step, loss.item())
    scaling_factor = vae.config.scaling_factor
    refined: Any = average.module
    save_vae(refined, photo, anime, out)
    # The UNets know latents of this scale; the decoder must not redefine it.
    refined.register_to_config(scaling_factor=scaling_factor)
    refined.save_pretrained(out)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Pictures, batch: int = 64) -> Tensor:
    """Scaled posterior means, float16 [N, C, h, w]."""
    out = []
    for index in torch.arange(len(pictures.images)).split(batch):
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(pictures.floats(index)).latent_dist.mean
        out.append((mean.float() * vae.config.scaling_factor).half())
    return torch.cat(out)


def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images through the autoencoder and back, [-1, 1]: the ceiling of anything the UNet can draw."""
    with torch.no_grad():
        return F.hardtanh(vae.decode(vae.encode(images).latent_dist.mean).sample)
