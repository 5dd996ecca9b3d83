"""A base model: a frozen Stable Diffusion of any origin, ready to be stepped."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from nigaoe.core.attention import attach
from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import load_complete, locate, quiet_loading
from nigaoe.core.samplers.schedule import NoiseSchedule

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False)
class Base:
    """UNet (already taking image prompts), autoencoder, text encoder and noise schedule, all frozen."""

    name: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: NoiseSchedule
    device: torch.device
    precision: Precision

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.unet.config.in_channels)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent position."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def default_size_px(self) -> int:
        """Side of the pictures that the base was trained on."""
        return int(self.unet.config.sample_size) * self.vae_factor

    def autocast(self) -> torch.autocast:
        """Matrix products in the base's precision; weights and sums stay as they are."""
        dtype = getattr(torch, self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Padded and cut token ids, int64 [B, T]; the end token survives the cut."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return ids.input_ids  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode_ids(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] to text states [B, T, C]."""
        return self.text_encoder(ids.to(self.device)).last_hidden_state.float()  # type: ignore[no-any-return]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Prompts to text states [B, T, C]."""
        return self.encode_ids(self.tokenize(texts))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [B, 3, H, W] in [-1, 1] to posterior mean and log-variance [B, C, h, w], unscaled."""
        with self.autocast():
            posterior = self.vae.encode(images.to(self.device)).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk: int = 8) -> Tensor:
        """Scaled latents [B, C, h, w] to pictures, uint8 [B, H, W, 3] on the CPU; rounded, not cut."""
        out = []
        for part in latents.split(chunk):
            with self.autocast():
                pixels = self.vae.decode(part / self.vae.config.scaling_factor).sample
            out.append(((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu())
        return torch.cat(out)


def load_base(name: str, precision: Precision = "float32", device: str | torch.device = "cpu") -> Base:
    """Load a base by hub id, folder, or as `toy/photo`, `toy/anime`.

    Raises:
        BaseModelError: It cannot be found or is not a Stable Diffusion folder.
    """
    path = locate(name)
    target = torch.device(device)

    def part(cls: Any, subfolder: str, **kwargs: Any) -> Any:
        return cls.from_pretrained(path, subfolder=subfolder, **kwargs).to(target).eval().requires_grad_(False)

    try:
        with quiet_loading():
            unet = part(UNet2DConditionModel, "unet", torch_dtype=torch.float32)
            vae = part(AutoencoderKL, "vae", torch_dtype=torch.float32)
            text_encoder = load_complete(CLIPTextModel, path, "text_encoder").to(target)
            tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")
            schedule = NoiseSchedule.from_config(DDIMScheduler.load_config(path, subfolder="scheduler"))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"base model {name!r} cannot be loaded ({reason}); give a diffusers folder or hub id"
        ) from None
    attach(unet)
    return Base(name, unet, vae, text_encoder, tokenizer, schedule, target, precision)
