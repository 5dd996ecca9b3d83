"""Whole runs against diffusers' pipelines, with the same weights and the same seed: the latents before the autoencoder.

Text-to-image, image-to-image, inpainting by blending and with an inpainting UNet, ControlNets, on SD and on SDXL; all
with an adapter and guidance, for each sampler.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.controlnets import load_controlnet
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Control, Generation
from nigaoe.core.image_prompts.features import embedding_features
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.samplers.registry import SamplerName
from tiny_worlds import SIDE_PX, make_controlnet

SCHEDULERS: dict[SamplerName, Callable[[Any], Any]] = {
    "ddim": DDIMScheduler.from_config,
    "euler": EulerDiscreteScheduler.from_config,
    "euler_a": EulerAncestralDiscreteScheduler.from_config,
    "dpmpp_2m": DPMSolverMultistepScheduler.from_config,
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    "lcm": LCMScheduler.from_config,
}
SCALE, GUIDANCE, SEED, EMBED = 0.7, 4.0, 9, 24
WHOLE, SHORT = 30, 11
"""Steps: of the runs from noise, and of the others."""
PIPELINES: dict[str, dict[str, Any]] = {
    "sd": {
        "text": StableDiffusionPipeline,
        "image": StableDiffusionImg2ImgPipeline,
        "inpaint": StableDiffusionInpaintPipeline,
        "control": StableDiffusionControlNetPipeline,
    },
    "sdxl": {
        "text": StableDiffusionXLPipeline,
        "image": StableDiffusionXLImg2ImgPipeline,
        "inpaint": StableDiffusionXLInpaintPipeline,
        "control": StableDiffusionXLControlNetPipeline,
    },
}
# The released pipeline tells of parts that it has no use for here.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@dataclass
class World:
    """A base, an adapter of it, and where both lie."""

    kind: str
    folder: Path
    adapter_folder: Path
    base: Base
    adapter: IPAdapter

    def theirs(self, task: str, sampler: SamplerName, **parts: Any) -> Any:
        """A pipeline of diffusers with the adapter loaded."""
        kind = "sdxl" if self.kind == "sdxl" else "sd"
        pipeline = PIPELINES[kind][task].from_pretrained(self.folder, torch_dtype=torch.float32, **parts)
        pipeline.scheduler = SCHEDULERS[sampler](self.base.schedule.config)
        pipeline.load_ip_adapter(
            str(self.adapter_folder), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None
        )
        pipeline.set_ip_adapter_scale(SCALE)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tiny_base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> World:
    folder, adapters = tiny_base(request.param), tmp_path_factory.mktemp("adapter")
    base = load_base(str(folder))
    torch.manual_seed(2)
    adapter = IPAdapter.for_unet(base.unet, features={"image_embeds": EMBED}).eval().requires_grad_(False)
    for parameter in adapter.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    save_adapter(adapter, adapters / "adapter.safetensors")
    return World(request.param, folder, adapters, base, adapter)


def _embeds() -> torch.Tensor:
    return torch.randn(1, EMBED, generator=torch.Generator().manual_seed(3))


def _picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def _mask() -> Image.Image:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    mask[4:20, 8:28] = 255
    return Image.fromarray(mask)


def _generation(world: World, sampler: SamplerName, steps: int = SHORT) -> Generation:
    prompt = guided_image_prompts(world.adapter, embedding_features(_embeds()), SCALE)
    return Generation(
        prompt="a photo of a man",
        seed=SEED,
        steps=steps,
        guidance_scale=GUIDANCE,
        sampler=sampler,
        image_prompts=tuple(prompt),
    )


def _ours(world: World, generation: Generation) -> torch.Tensor:
    engine = Engine(world.base)
    engine.submit(generation)
    (row,) = engine._active
    while engine.active_rows:
        assert not engine.step().failures
    return row.latents


def _theirs(pipeline: Any, steps: int = SHORT, **asked: Any) -> torch.Tensor:
    embeds = _embeds()
    latents: torch.Tensor = pipeline(
        "a photo of a man",
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(SEED),
        ip_adapter_image_embeds=[torch.stack([torch.zeros_like(embeds), embeds])],
        output_type="latent",
        **asked,
    ).images[0]
    return latents


def _agree(world: World, generation: Generation, theirs: torch.Tensor, plain: Generation | None = None) -> None:
    ours = _ours(world, generation)
    assert torch.isfinite(ours).all()
    assert (ours - theirs).abs().max() < 1e-3
    if plain is not None:
        assert (ours - _ours(world, plain)).abs().max() > 1e-2, "what is compared must matter"


@pytest.mark.parametrize("world", ["sd", "sd2", "sdxl"], indirect=True)
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_text_to_image(world: World, sampler: SamplerName) -> None:
    generation = _generation(world, sampler, WHOLE)
    theirs = _theirs(world.theirs("text", sampler), WHOLE, height=SIDE_PX, width=SIDE_PX)
    _agree(world, generation, theirs, replace(generation, image_prompts=()))


@pytest.mark.parametrize("world", ["sd", "sdxl"], indirect=True)
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_image_to_image(world: World, sampler: SamplerName) -> None:
    generation = replace(_generation(world, sampler), init_image=_picture(4), strength=0.6)
    theirs = _theirs(world.theirs("image", sampler), image=_picture(4), strength=0.6)
    _agree(world, generation, theirs, replace(generation, strength=0.9))


@pytest.mark.parametrize("world", ["sd", "sdxl", "sd-inpaint"], indirect=True)
@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_inpainting(world: World, sampler: SamplerName, strength: float) -> None:
    generation = replace(_generation(world, sampler), init_image=_picture(4), inpaint_mask=_mask(), strength=strength)
    pipeline = world.theirs("inpaint", sampler)
    theirs = _theirs(pipeline, image=_picture(4), mask_image=_mask(), strength=strength, height=SIDE_PX, width=SIDE_PX)
    _agree(world, generation, theirs, replace(generation, seed=1))


@pytest.mark.parametrize("world", ["sd", "sdxl"], indirect=True)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_karras"])
def test_several_controlnets(world: World, sampler: SamplerName, tmp_path: Path) -> None:
    nets = [make_controlnet(world.base.unet, tmp_path / str(i), seed=i) for i in range(2)]
    theirs = world.theirs("control", sampler, controlnet=[ControlNetModel.from_pretrained(net) for net in nets])
    controls = (
        Control(net=load_controlnet(str(nets[0])), image=_picture(5), scale=0.8, start=0.2, end=1.0),
        Control(net=load_controlnet(str(nets[1])), image=_picture(6), scale=0.5, start=0.0, end=0.5),
    )
    generation = replace(_generation(world, sampler), controls=controls)
    asked: dict[str, Any] = {
        "controlnet_conditioning_scale": [0.8, 0.5],
        "control_guidance_start": [0.2, 0.0],
        "control_guidance_end": [1.0, 0.5],
    }
    _agree(
        world,
        generation,
        _theirs(theirs, image=[_picture(5), _picture(6)], **asked),
        replace(generation, controls=controls[:1]),
    )


@pytest.mark.parametrize("world", ["sdxl"], indirect=True)
def test_negative_prompts_and_sizes_of_xl(world: World) -> None:
    generation = replace(
        _generation(world, "euler"), negative_prompt="blurry", original_size=(64, 48), crop_top_left=(3, 5)
    )
    told: dict[str, Any] = {
        "original_size": (64, 48),
        "crops_coords_top_left": (3, 5),
        "target_size": (SIDE_PX, SIDE_PX),
    }
    unlike: dict[str, Any] = {f"negative_{name}": value for name, value in told.items()}
    pipeline = world.theirs("text", "euler")
    theirs = _theirs(pipeline, height=SIDE_PX, width=SIDE_PX, negative_prompt="blurry", **told, **unlike)
    _agree(world, generation, theirs, replace(generation, negative_prompt=""))
