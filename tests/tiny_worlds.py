"""Whole bases of every architecture in a few hundred kilobytes: random weights, real in every part."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.models import locate

SIDE_PX, FACTOR = 32, 4

SD: dict[str, Any] = {
    "sample_size": SIDE_PX // FACTOR,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
}
SDXL: dict[str, Any] = {
    **SD,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
    "cross_attention_dim": 32 + 48,
}
SD2: dict[str, Any] = {**SD, "attention_head_dim": (4, 8), "use_linear_projection": True}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def _text(cls: Any, width: int, tokenizer: CLIPTokenizer, **kwargs: Any) -> Any:
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    length = tokenizer.model_max_length
    return cls(
        CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=length, **shape, **ends, **kwargs)
    ).eval()


def _vae(scaling_factor: float) -> AutoencoderKL:
    blocks = 3
    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE_PX,
        scaling_factor=scaling_factor,
    ).eval()


def make_base(kind: str, folder: Path) -> Path:
    """Write a diffusers folder of kind sd, sd2 (which predicts v), sd-inpaint or sdxl."""
    torch.manual_seed(1)
    tokenizer = CLIPTokenizer.from_pretrained(locate("toy/photo"), subfolder="tokenizer")
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction" if kind == "sd2" else "epsilon")
    if kind == "sdxl":
        StableDiffusionXLPipeline(
            vae=_vae(0.13025),
            text_encoder=_text(CLIPTextModel, 32, tokenizer),
            text_encoder_2=_text(CLIPTextModelWithProjection, 48, tokenizer, projection_dim=24),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(**SDXL).eval(),
            scheduler=scheduler,
        ).save_pretrained(folder)
        return folder
    cls, channels = (StableDiffusionInpaintPipeline, 9) if kind == "sd-inpaint" else (StableDiffusionPipeline, 4)
    cls(
        vae=_vae(0.18215),
        text_encoder=_text(CLIPTextModel, 32, tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**{**(SD2 if kind == "sd2" else SD), "in_channels": channels}).eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def make_controlnet(unet: UNet2DConditionModel, folder: Path, seed: int) -> Path:
    """Write a ControlNet of a UNet, with its zero convolutions moved away from zero."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 16), load_weights_from_unet=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    net.save_pretrained(folder)
    return folder


def moved_adapter(base: Base, encoder: ImageEncoder, variant: str, *, identity: int, rank: int, seed: int) -> IPAdapter:
    """An adapter of a base and an encoder whose every weight was moved, so that no symmetry hides a mistake."""
    torch.manual_seed(seed)
    widths: dict[Feature, int] = {
        "image_embeds": encoder.embed_dim,
        "hidden_states": encoder.hidden_dim,
        "identity": identity,
    }
    adapter = IPAdapter.for_unet(base.unet, variant, features=widths, lora_rank=rank).eval().requires_grad_(False)
    for parameter in adapter.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return adapter
