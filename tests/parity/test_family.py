"""Every variant against diffusers, both ways: our file in its loader, and its reading of our weights, in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.adapters.variants import VARIANTS, Feature
from nigaoe.core.attention import attached

FEATURES: dict[Feature, int] = {"image_embeds": 48, "hidden_states": 80, "identity": 512}
PATCHES = 257
"""Diffusers knows no other number of tokens for the full variant."""
BASES = {
    "sd15-like": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": 64,
    },
    "sdxl-like": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
        "cross_attention_dim": 128,
    },
}


@pytest.fixture(scope="module", params=BASES)
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    torch.manual_seed(3)
    common = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8}
    unet = UNet2DConditionModel(**common, **BASES[request.param]).eval().requires_grad_(False)
    unet.parity_name = request.param
    return unet


def _trained(unet: UNet2DConditionModel, variant: str) -> IPAdapter:
    """An adapter whose every weight was moved, so that no symmetry hides a mistake."""
    torch.manual_seed(5)
    adapter = IPAdapter.for_unet(unet, variant, features=FEATURES, lora_rank=4).eval().requires_grad_(False)
    for parameter in adapter.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter


def _features(adapter: IPAdapter, rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes: dict[Feature, tuple[int, ...]] = {
        "image_embeds": (rows, FEATURES["image_embeds"]),
        "hidden_states": (rows, PATCHES, FEATURES["hidden_states"]),
        "identity": (rows, FEATURES["identity"]),
    }
    return [torch.randn(shapes[name], generator=generator) for name in adapter.variant.inputs]


def _inputs(unet: UNet2DConditionModel, rows: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(rows, 4, 8, 8, generator=generator)
    text = torch.randn(rows, 6, unet.config.cross_attention_dim, generator=generator)
    extra: dict[str, Tensor] = {}
    if unet.config.addition_embed_type:
        extra = {
            "text_embeds": torch.randn(rows, 80 - 6 * 8, generator=generator),
            "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]] * rows),
        }
    return x, torch.tensor([31, 807][:rows]), text, extra


def _theirs(unet: UNet2DConditionModel, adapter: IPAdapter, file: Path, scale: float) -> Tensor:
    """The output of diffusers' own loader and processors with the file that we wrote, on a copy of the UNet."""
    copy: Any = UNet2DConditionModel.from_config(unet.config).eval()
    copy.load_state_dict(unet.state_dict())
    pipeline: Any = StableDiffusionPipeline(None, None, None, copy, None, None, None, requires_safety_checker=False)
    pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(scale)
    features = dict(zip(adapter.variant.inputs, _features(adapter, 2), strict=True))
    image = next(iter(features.values()))
    if adapter.variant.name == "portrait-unnormalised":
        # A resampler reads a sequence: of one photo, here.
        image = image[:, None]
    projection = copy.encoder_hid_proj.image_projection_layers[0]
    if adapter.variant.name.startswith("faceid-plus"):
        projection.clip_embeds = features["hidden_states"][:, None]
        projection.shortcut = adapter.variant.name == "faceid-plusv2"
    x, t, text, extra = _inputs(copy, 2)
    with torch.no_grad():
        out: Tensor = copy(x, t, text, added_cond_kwargs={**extra, "image_embeds": [image[:, None]]}).sample
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_unet_says_what_it_says_with_diffusers(
    unet: UNet2DConditionModel, variant: str, tmp_path: Path, parity_table: list[str]
) -> None:
    adapter = _trained(unet, variant)
    file = tmp_path / "adapter.safetensors"
    save_adapter(adapter, file)
    ours = load_adapter(file)
    x, t, text, extra = _inputs(unet, 2)
    with torch.no_grad(), attached(unet):
        plain = unet(x, t, text, added_cond_kwargs=extra).sample
        prompt = ours(*_features(ours, 2)).scaled(0.7)
        mine = unet(x, t, text, added_cond_kwargs=extra, cross_attention_kwargs={"image_prompts": (prompt,)}).sample
    theirs = _theirs(unet, adapter, file, 0.7)
    difference = float((mine - theirs).abs().max())
    parity_table.append(f"{variant:24}{unet.parity_name:12}{difference:.1e}")
    assert difference < 1e-5
    assert (mine - plain).abs().max() > 1e-3, "the adapter must do something, or the comparison says nothing"
