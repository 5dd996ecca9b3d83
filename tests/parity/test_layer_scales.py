"""Layer scales against diffusers' per-block configs, and the presets against what their authors published."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import Base
from nigaoe.core.errors import AdapterError, RequestError
from nigaoe.core.image_prompts.features import embedding_features
from nigaoe.core.image_prompts.layer_scales import PRESETS, LayerScales, layer_places, layer_scales
from nigaoe.core.image_prompts.prompt import PromptScales, guided_image_prompt
from nigaoe.core.models import locate


@pytest.fixture
def sd(real_unets: dict[str, UNet2DConditionModel]) -> UNet2DConditionModel:
    return real_unets["sd15"]


@pytest.fixture
def sdxl(real_unets: dict[str, UNet2DConditionModel]) -> UNet2DConditionModel:
    return real_unets["sdxl"]


def test_blocks_named_for_diffusers_are_the_same_layers(base: Base, adapter: IPAdapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(locate("toy/photo"), dtype=torch.float32)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale({"down": {"block_1": 0.9}, "up": {"block_0": [0.2, 0.6]}})
    # Published order of this UNet: down 0, down 1, up 0 (two), up 1 (two), middle. What is not named is off.
    scales = PromptScales(layers=LayerScales((0.0, 0.9, 0.2, 0.6, 0.0, 0.0, 0.0)))
    embeds = torch.randn(1, adapter.embed_dim, generator=torch.Generator().manual_seed(1))
    prompt = guided_image_prompt(adapter, embedding_features(embeds), scales).conditional
    x, t, text = torch.randn(1, 8, 12, 12), torch.tensor([500]), base.text_encoder.encode(["a photo of a man"]).states
    with torch.no_grad():
        theirs = pipeline.unet(x, t, text, added_cond_kwargs={"image_embeds": [embeds[:, None]]}).sample
        ours = base.unet(x, t, text, cross_attention_kwargs={"image_prompts": (prompt,)}).sample
    assert (ours - theirs).abs().max() < 1e-5


def test_transformers_are_counted_as_they_run(sd: UNet2DConditionModel, sdxl: UNet2DConditionModel) -> None:
    of_sd = layer_places(sd)
    assert [place.transformer for place in of_sd] == [*range(6), *range(7, 16), 6]
    assert of_sd[-1].stage == "mid"
    of_sdxl = layer_places(sdxl)
    assert [place.transformer for place in of_sdxl].count(6) == 10
    assert {place.transformer for place in of_sdxl if place.stage == "mid"} == {4}


def test_style_and_composition_are_the_published_blocks(sdxl: UNet2DConditionModel) -> None:
    """InstantStyle: style is up_blocks.0.attentions.1, composition down_blocks.2.attentions.1."""
    names = [name for name in sdxl.attn_processors if ".attn2." in name]
    for preset, block in (("style", "up_blocks.0.attentions.1."), ("composition", "down_blocks.2.attentions.1.")):
        factors = layer_scales(preset, layer_places(sdxl)).factors
        assert [name for name, factor in zip(names, factors, strict=True) if factor] == [
            name for name in names if name.startswith(block)
        ]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_scales_every_layer_within_bounds(sd: UNet2DConditionModel, preset: str) -> None:
    factors = layer_scales(preset, layer_places(sd)).factors
    assert len(factors) == 16
    assert all(0 <= factor <= 1 for factor in factors)
    assert any(factors)


def test_eases_run_as_their_names_say(sd: UNet2DConditionModel) -> None:
    places = layer_places(sd)
    by_transformer = {
        preset: dict(zip((p.transformer for p in places), layer_scales(preset, places).factors, strict=True))
        for preset in ("ease_in", "ease_out", "ease_in_out", "reverse_in_out")
    }
    assert by_transformer["ease_in"][0] == pytest.approx(1.0)
    assert by_transformer["ease_out"][0] == pytest.approx(0.05)
    assert by_transformer["ease_in_out"][8] == pytest.approx(1.0)
    assert by_transformer["reverse_in_out"][8] == pytest.approx(0.05)


def test_wrong_presets_and_counts_are_refused(base: Base, adapter: IPAdapter) -> None:
    places = layer_places(base.unet)
    with pytest.raises(RequestError, match="no layer preset 'styel'; choose one of linear"):
        layer_scales("styel", places)
    with pytest.raises(RequestError, match="this base has 7 transformers"):
        layer_scales("style", places)
    scales = PromptScales(layers=LayerScales((1.0, 1.0, 1.0)))
    with pytest.raises(AdapterError, match="3 layer factors were given for an adapter of 7 layers"):
        guided_image_prompt(adapter, embedding_features(torch.zeros(1, adapter.embed_dim)), scales)
