"""Bases, image encoders and JPEG files to train on at any size, with random weights; for benchmarks of training."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from nigaoe.core.models import locate
from tiny_worlds import SCHEDULE

PICTURE_PX = 512
"""Side of the JPEG files."""
LOUDER = 4.0
"""Random UNets are multiplied by it at their end."""


@dataclass(frozen=True)
class Size:
    """Architectures of one size."""

    side_px: int
    """Of the pictures that are trained on."""
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    vision: dict[str, Any]


SD15 = Size(
    side_px=512,
    unet={"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
    text={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    vision={
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
)
"""Stable Diffusion 1.5 with CLIP ViT-H/14."""
PROPORTIONS = {"unet": 1663, "vae": 1117, "clip": 335, "text": 13}
"""GFLOP of one picture of it at 512 px: forward and backward of the UNet, forward of the encoders."""
MINIATURE = Size(
    side_px=256,
    unet={
        "sample_size": 32,
        "block_out_channels": (16, 32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    },
    vae={"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    text={"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    vision={
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 14,
        "projection_dim": 64,
    },
)
"""A three-thousandth of that, in its proportions."""


def write_models(size: Size, folder: Path) -> tuple[Path, Path]:
    """Folders of a base and of an image encoder of a size."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(locate("toy/photo"), subfolder="tokenizer", model_max_length=77)
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    blocks, unet = len(size.vae["block_out_channels"]), UNet2DConditionModel(**size.unet)
    # So that what it says matters to the loss: as it comes, it says next to nothing.
    unet.conv_out.weight.data.mul_(LOUDER)
    base, encoder = folder / "base", folder / "encoder"
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            **size.vae,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77, **size.text, **ends)
        ),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(base)
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=224, **size.vision))
    vision.save_pretrained(encoder)
    CLIPImageProcessorPil().save_pretrained(encoder)
    return base, encoder


def write_settings(size: Size, base: Path, encoder: Path) -> None:
    """Folders of a base and of an image encoder of a size, with not one weight in them."""
    blocks = len(size.vae["block_out_channels"])
    with torch.device("meta"):
        UNet2DConditionModel(**size.unet).save_config(base / "unet")
        AutoencoderKL(
            **size.vae,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
        ).save_config(base / "vae")
    CLIPTextConfig(**size.text).save_pretrained(base / "text_encoder")
    CLIPVisionConfig(image_size=224, **size.vision).save_pretrained(encoder)


def write_pictures(folder: Path, count: int) -> Path:
    """JPEG files of 512 px and a table of captions; the files are as large as photographs of that size."""
    folder.mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["ID", "caption_0"])
        for i in range(count):
            name = f"{i:05d}.jpg"
            _photograph(i).save(folder / name, quality=90)
            table.writerow([name, f"a photo of person {i}"])
    return folder / "captions.csv"


def _photograph(seed: int) -> Image.Image:
    """Noise whose amplitude falls with its frequency, as in photographs."""
    generator = np.random.default_rng(seed)
    pixels = np.full((PICTURE_PX, PICTURE_PX, 3), 128.0, np.float32)
    for side in (4, 16, 64, 256, 512):
        coarse = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        octave = coarse.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC)
        pixels += (np.asarray(octave, np.float32) - 127.5) * (1.2 / side**0.5)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
