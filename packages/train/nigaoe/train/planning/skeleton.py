"""The models of a run without their weights, on the meta device: what a plan is measured on."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import IDENTITY_DIM, Feature
from nigaoe.core.attention import attach
from nigaoe.core.errors import BaseModelError
from nigaoe.core.image_encoders import read_encoder_config
from nigaoe.core.models import locate, quiet_loading
from nigaoe.core.unet_call import UNetCall, run_unet
from nigaoe.train.config import TrainConfig

_DLIB_DIM = 128


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Everything that a worker holds, as shapes."""

    unet: UNet2DConditionModel
    """In the run's precision, taking image prompts."""
    vae: AutoencoderKL
    text_towers: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    image_encoder: CLIPVisionModelWithProjection
    adapter: IPAdapter
    """Float32; all that is trained."""
    resolution_px: int
    """Side of the pictures."""

    def features(self, batch: int) -> list[Tensor]:
        """What the adapter reads of as many pictures."""
        vision, widths = self.image_encoder.config, self.adapter.widths.features
        patches = (int(str(vision.image_size)) // int(str(vision.patch_size))) ** 2 + 1
        shapes: dict[Feature, tuple[int, ...]] = {"hidden_states": (patches,)}
        inputs = self.adapter.variant.inputs
        return [torch.zeros(batch, *shapes.get(name, ()), widths[name], device="meta") for name in inputs]

    def step(self, batch: int) -> Tensor:
        """Forward of a training step that has its text encoded, as `AdapterObjective` makes it; the loss."""
        config, factor = self.unet.config, 2 ** (len(self.vae.config.block_out_channels) - 1)
        with torch.device("meta"):
            side = self.resolution_px // factor
            call = UNetCall(
                torch.zeros(batch, config.in_channels, side, side),
                torch.zeros(batch, dtype=torch.long),
                torch.zeros(batch, self.text_length, config.cross_attention_dim),
                image_prompts=(self.adapter(*self.features(batch)),),
                pooled=torch.zeros(batch, self._pooled_width) if self.is_xl else None,
                time_ids=torch.zeros(batch, 6) if self.is_xl else None,
            )
            return run_unet(self.unet, call).square().flatten(1).mean(1).mean()

    @property
    def is_xl(self) -> bool:
        """Whether the UNet reads sizes and a summary of the prompt."""
        return bool(self.unet.config.addition_embed_type == "text_time")

    @property
    def text_length(self) -> int:
        """Tokens per prompt."""
        return int(self.text_towers[0].config.max_position_embeddings)

    @property
    def _pooled_width(self) -> int:
        return int(self.text_towers[-1].config.projection_dim or 0)


def build_skeleton(config: TrainConfig) -> Skeleton:
    """Everything that a run of this config would load, read off the `config.json` files alone.

    Raises:
        BaseModelError: The base or the image encoder cannot be found, or is none.
    """
    with torch.device("meta"), quiet_loading():
        vision = read_encoder_config(config.image_encoder)
        try:
            unet, vae, towers = _base_parts(locate(config.base))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BaseModelError(
                f"base model {config.base!r} cannot be loaded ({reason}); give a diffusers folder or hub id"
            ) from None
        adapter = IPAdapter.for_unet(
            unet,
            config.adapter.variant,
            features=feature_widths(config, vision),
            num_tokens=config.adapter.num_tokens,
            lora_rank=config.adapter.lora_rank,
        )
        encoder = CLIPVisionModelWithProjection(vision)
    dtype = getattr(torch, config.precision)
    for module in (unet, vae, *towers):
        # Diffusers' own `to` warns of layers that must stay float32, of which there are none.
        nn.Module.to(module.requires_grad_(False), dtype=dtype)
    nn.Module.requires_grad_(encoder, False)
    attach(unet)
    side = config.data.resolution_px or int(unet.config.sample_size) * 2 ** (len(vae.config.block_out_channels) - 1)
    return Skeleton(unet, vae, towers, encoder, adapter, side)


def feature_widths(config: TrainConfig, vision: CLIPVisionConfig) -> dict[Feature, int]:
    """Widths of all that the named encoders say."""
    identity = _DLIB_DIM if config.face_encoder == "dlib" else IDENTITY_DIM
    return {
        "image_embeds": int(vision.projection_dim),
        "hidden_states": int(vision.hidden_size),
        "identity": identity,
    }


def _base_parts(path: str) -> tuple[UNet2DConditionModel, AutoencoderKL, tuple[Any, ...]]:
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path, subfolder="unet"))
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(path, subfolder="vae"))
    towers: list[Any] = [CLIPTextModel(CLIPTextConfig.from_pretrained(path, subfolder="text_encoder"))]
    if unet.config.addition_embed_type == "text_time":
        config = CLIPTextConfig.from_pretrained(path, subfolder="text_encoder_2")
        towers.append(CLIPTextModelWithProjection(config))
    return unet, vae, tuple(towers)
