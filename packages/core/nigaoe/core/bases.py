"""A base model: a frozen Stable Diffusion of any origin, ready to be stepped."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nigaoe.core.attention import attach, cross_attention_layers
from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import load_complete, locate, quiet_loading
from nigaoe.core.pixels import as_pictures
from nigaoe.core.samplers.schedule import NoiseSchedule
from nigaoe.core.text_encoders import TextEncoder, TextTower

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False)
class Base:
    """UNet (already taking image prompts), autoencoder, text encoder and noise schedule, all frozen.

    Weights lie in `precision` and run in it; what enters and leaves is float32, and so is everything between two steps.
    """

    name: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: TextEncoder
    schedule: NoiseSchedule
    device: torch.device
    precision: Precision

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.vae.config.latent_channels)

    @cached_property
    def cross_attention(self) -> tuple[Attention, ...]:
        """The UNet's cross-attention layers, in the order of published adapter files."""
        return tuple(cross_attention_layers(self.unet).values())

    @property
    def is_inpainting(self) -> bool:
        """Whether the UNet reads a mask and the picture around it beside the latents."""
        return int(self.unet.config.in_channels) == 2 * self.latent_channels + 1

    @property
    def is_xl(self) -> bool:
        """Whether it reads sizes and a summary of the prompt, as SDXL does."""
        return bool(self.unet.config.addition_embed_type == "text_time")

    @property
    def vae_factor(self) -> int:
        """Pixels per latent position."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def size_multiple(self) -> int:
        """Sides of pictures are multiples of this, px."""
        return int(self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def default_size_px(self) -> int:
        """Side of the pictures that the base was trained on."""
        return int(self.unet.config.sample_size) * self.vae_factor

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [B, 3, H, W] in [-1, 1] to posterior mean and log-variance [B, C, h, w], unscaled."""
        return encode_pixels(self.vae, images)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder gives them to those that the UNet was trained on."""
        scaled: Tensor = (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] to pixels, float32 [B, 3, H, W], about [-1, 1]."""
        unscaled = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pixels: Tensor = self.vae.decode(unscaled.to(self.vae.dtype)).sample
        return pixels.float()

    def decode(self, latents: Tensor, chunk: int = 8) -> Tensor:
        """Scaled latents [B, C, h, w] to pictures, uint8 [B, H, W, 3] on the CPU."""
        return torch.cat([as_pictures(self.decode_pixels(part)) for part in latents.split(chunk)])


@torch.no_grad()
def encode_pixels(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, H, W] in [-1, 1] to posterior mean and log-variance, float32 [B, C, h, w], unscaled."""
    posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.logvar.float()


def load_base(name: str, precision: Precision = "float32", device: str | torch.device = "cpu") -> Base:
    """Load a base by hub id, folder, or as `toy/photo`, `toy/anime`.

    Raises:
        BaseModelError: It cannot be found or is not a Stable Diffusion folder.
    """
    if precision not in get_args(Precision):
        raise BaseModelError(f"there is no precision {precision!r}; choose one of {', '.join(get_args(Precision))}")
    path, target, dtype = locate(name), torch.device(device), getattr(torch, precision)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(f"device {str(device)!r} was asked for and torch sees no CUDA device; choose 'cpu'")

    def part(cls: Any, subfolder: str, dtype: torch.dtype) -> Any:
        model = cls.from_pretrained(path, subfolder=subfolder, torch_dtype=dtype).eval().requires_grad_(False)
        # The layout in which tensor cores run convolutions; otherwise every one of them is transposed at every call.
        return model.to(target, memory_format=torch.channels_last if target.type == "cuda" else torch.preserve_format)

    try:
        with quiet_loading():
            unet = part(UNet2DConditionModel, "unet", dtype)
            settings = AutoencoderKL.load_config(path, subfolder="vae")
            # SDXL's autoencoder overflows in float16, and says so.
            overflows = precision == "float16" and settings.get("force_upcast", False)
            vae = part(AutoencoderKL, "vae", torch.float32 if overflows else dtype)
            text_encoder = _load_text_encoder(path, is_xl=unet.config.addition_embed_type == "text_time")
            for tower in text_encoder.towers:
                tower.model.to(device=target, dtype=dtype)  # type: ignore[call-arg]
            schedule = NoiseSchedule.from_config(DDIMScheduler.load_config(path, subfolder="scheduler"))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"base model {name!r} cannot be loaded ({reason}); give a diffusers folder or hub id"
        ) from None
    attach(unet)
    return Base(name, unet, vae, text_encoder, schedule, target, precision)


def _load_text_encoder(path: str, *, is_xl: bool) -> TextEncoder:
    def tower(cls: Any, suffix: str) -> TextTower:
        tokenizer = CLIPTokenizer.from_pretrained(path, subfolder=f"tokenizer{suffix}")
        return TextTower(load_complete(cls, path, f"text_encoder{suffix}"), tokenizer)

    if not is_xl:
        return TextEncoder((tower(CLIPTextModel, ""),))
    config = DiffusionPipeline.load_config(path)
    towers = tower(CLIPTextModel, ""), tower(CLIPTextModelWithProjection, "_2")
    return TextEncoder(towers, empty_is_zero=bool(config.get("force_zeros_for_empty_prompt", True)))
