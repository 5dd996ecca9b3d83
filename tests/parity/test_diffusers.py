"""Our attention, adapter files, DDIM and engine against diffusers' own, same weights, float32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.models import locate


def _noise(seed: int) -> torch.Tensor:
    """What a pipeline would draw."""
    return torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(locate("toy/photo"), dtype=torch.float32)


def test_unet_with_adapter_equals_diffusers(
    base: Base, adapter: IPAdapter, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None)
    try:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, base.latent_channels, 12, 12, generator=generator)
        embeds = torch.randn(2, adapter.embed_dim, generator=generator)
        text = base.text_encoder.encode(["a photo of a man", "a photo of a woman with red hair"]).states
        t = torch.tensor([17, 803])
        for scale in (1.0, 0.35):
            pipeline.set_ip_adapter_scale(scale)
            with torch.no_grad():
                theirs = pipeline.unet(latents, t, text, added_cond_kwargs={"image_embeds": [embeds[:, None]]}).sample
                kwargs = {"image_prompts": (adapter(embeds).scaled(scale),)}
                ours = base.unet(latents, t, text, cross_attention_kwargs=kwargs).sample
            assert (ours - theirs).abs().max() < 1e-5
            without = base.unet(latents, t, text).sample
            assert (ours - without).abs().max() > 1e-3, "the adapter must do something, or the comparison says nothing"
    finally:
        pipeline.unload_ip_adapter()


def test_plain_unet_equals_diffusers(base: Base) -> None:
    theirs = UNet2DConditionModel.from_pretrained(locate("toy/photo"), subfolder="unet", torch_dtype=torch.float32)
    x, t, text = torch.randn(2, 8, 12, 12), torch.tensor([5, 900]), base.text_encoder.encode(["a", "b"]).states
    with torch.no_grad():
        assert (base.unet(x, t, text).sample - theirs(x, t, text).sample).abs().max() < 1e-5


def test_a_whole_run_equals_the_pipeline(base: Base, pipeline: StableDiffusionPipeline) -> None:
    generation = Generation(prompt="a photo of a woman", seed=5, steps=7, guidance_scale=3.0)
    noise = _noise(generation.seed)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        generation.prompt, num_inference_steps=7, guidance_scale=3.0, latents=noise, output_type="np"
    ).images[0]
    ours = np.asarray(Engine(base).generate([generation])[0], np.float32) / 255
    assert np.abs(ours - theirs).max() < 1.01 / 255
