"""Bad input ends in one sentence: the value, what was expected, what to do."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.controlnets import ControlNet, load_controlnet
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Control, Generation, GuidedImagePrompt
from nigaoe.core.errors import AdapterError, NigaoeError, RequestError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.features import ImageFeatures, embedding_features, merged_features, require_encoder
from nigaoe.core.image_prompts.layer_scales import LayerScales, layer_places, layer_scales
from nigaoe.core.image_prompts.prompt import PromptScales, guided_image_prompt
from nigaoe.core.samplers.registry import SAMPLERS
from tiny_worlds import SIDE_PX, make_controlnet

EMBED = 12
NAN, INF = float("nan"), float("inf")


@dataclass
class World:
    """A tiny base, another of SDXL's kind, one for inpainting; an adapter of the first."""

    sd: Base
    sdxl: Base
    inpaint: Base
    adapter: IPAdapter
    net: ControlNet
    other_net: ControlNet

    def prompt(self, **changes: Any) -> GuidedImagePrompt:
        prompt = guided_image_prompt(self.adapter, embedding_features(torch.ones(1, EMBED)))
        return prompt._replace(**changes)


@pytest.fixture(scope="module")
def world(tiny_base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    sd, sdxl, inpaint = (load_base(str(tiny_base(kind))) for kind in ("sd", "sdxl", "sd-inpaint"))
    folder = tmp_path_factory.mktemp("nets")
    nets = [
        replace(load_controlnet(str(make_controlnet(base.unet, folder / name, seed=1))), name=name)
        for name, base in (("edges", sd), ("edges-xl", sdxl))
    ]
    adapter = IPAdapter.for_unet(sd.unet, features={"image_embeds": EMBED}).eval().requires_grad_(False)
    return World(sd, sdxl, inpaint, adapter, *nets)


def _says(caught: pytest.ExceptionInfo[NigaoeError], message: str) -> None:
    assert str(caught.value) == message
    # One sentence: no second line, no full stop, and after a semicolon what to do.
    assert re.fullmatch(r"[^\n;]+; [^\n;]+[^.]", message)


def _image(width: int = SIDE_PX, height: int = SIDE_PX) -> Image.Image:
    return Image.new("RGB", (width, height))


# Generations, each by what it changes in one that works.
NUMBERS: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps 0 is outside [1, 1000] of this base; choose a number between"),
    ({"steps": 1001}, "steps 1001 is outside [1, 1000] of this base; choose a number between"),
    ({"sampler": "ddpm"}, f"there is no sampler 'ddpm'; choose one of {', '.join(SAMPLERS)}"),
    ({"guidance_scale": NAN}, "guidance_scale nan is no finite number; give one, 1 for no guidance"),
    ({"guidance_scale": INF}, "guidance_scale inf is no finite number; give one, 1 for no guidance"),
    ({"width": 100}, "width 100 is not a positive multiple of 8, which base 'NAME' needs; choose one"),
    ({"width": 0}, "width 0 is not a positive multiple of 8, which base 'NAME' needs; choose one"),
    ({"height": -8}, "height -8 is not a positive multiple of 8, which base 'NAME' needs; choose one"),
    ({"strength": 1.5}, "strength 1.5 is outside [0, 1]; choose a number between"),
    ({"strength": -0.1}, "strength -0.1 is outside [0, 1]; choose a number between"),
    ({"strength": NAN}, "strength nan is outside [0, 1]; choose a number between"),
    (
        {"strength": 0.2, "init_image": _image()},
        "strength 0.2 of 4 steps leaves no step to take; raise one of them",
    ),
    (
        {"init_image": _image(36)},
        "width 36 is not a positive multiple of 8, which base 'NAME' needs; choose one",
    ),
    (
        {"init_image": _image(40), "width": 32},
        "init_image is 40x32 px, the picture 32x32; resize it or ask for its size",
    ),
    (
        {"inpaint_mask": _image()},
        "inpaint_mask was given without init_image, of which a part is to stay; give both",
    ),
    (
        {"inpaint_mask": _image(16, 24), "init_image": _image()},
        "inpaint_mask is 16x24 px, the picture 32x32; resize it or ask for its size",
    ),
]


@pytest.mark.parametrize(("change", "message"), NUMBERS)
def test_generations_that_cannot_be_made(world: World, change: dict[str, Any], message: str) -> None:
    engine, sound = Engine(world.sd), Generation(prompt="", steps=4)
    with pytest.raises(RequestError) as caught:
        engine.submit(replace(sound, **change))
    _says(caught, message.replace("NAME", world.sd.name))
    assert not engine.active_rows
    assert engine.submit(sound) == 0, "nothing of it stays"


def test_a_base_for_inpainting_needs_something_to_paint_over(world: World) -> None:
    for pictures in ({}, {"init_image": _image()}):
        with pytest.raises(RequestError) as caught:
            Engine(world.inpaint).submit(Generation(prompt="", **pictures))  # type: ignore[arg-type]
        name = world.inpaint.name
        _says(caught, f"base {name!r} is one for inpainting; give init_image and inpaint_mask, or use another base")


CONTROLS: list[tuple[dict[str, Any], str]] = [
    ({"image": _image(16)}, "the image of a control is 16x32 px, the picture 32x32; resize it or ask for its size"),
    ({"scale": NAN}, "scale nan of a control is no finite number; give one, 0 for none"),
    ({"start": 0.6, "end": 0.4}, "start 0.6 and end 0.4 are no window in [0, 1]; choose start below end"),
]


@pytest.mark.parametrize(("change", "message"), CONTROLS)
def test_controls_that_do_not_fit(world: World, change: dict[str, Any], message: str) -> None:
    sound = Control(net=world.net, image=_image())
    with pytest.raises(RequestError) as caught:
        Engine(world.sd).submit(Generation(prompt="", controls=(sound, replace(sound, **change))))
    _says(caught, message)
    assert Engine(world.sd).submit(Generation(prompt="", controls=(sound,))) == 0


def test_a_control_of_another_base(world: World) -> None:
    with pytest.raises(RequestError) as caught:
        Engine(world.sd).submit(Generation(prompt="", controls=(Control(net=world.other_net, image=_image()),)))
    _says(caught, "ControlNet 'edges-xl' has cross_attention_dim 80, the base has 32; use one made for this base")


PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"start": 0.5, "end": 0.5}, "start 0.5 and end 0.5 are no window in [0, 1]; choose start below end"),
    ({"start": -0.1}, "start -0.1 and end 1 are no window in [0, 1]; choose start below end"),
    ({"end": 1.2}, "start 0 and end 1.2 are no window in [0, 1]; choose start below end"),
    ({"start": NAN}, "start nan and end 1 are no window in [0, 1]; choose start below end"),
    ({"mask": torch.ones(16, 24)}, "the mask of an image prompt is 24x16 px, the picture 32x32; resize the mask"),
    ({"mask": torch.ones(1, 32, 32)}, "the mask of an image prompt has 3 axes, of sizes [1, 32, 32]; give [H, W]"),
    (
        {"mask": torch.full((32, 32), 255.0)},
        "the mask of an image prompt lies in [255, 255], not in [0, 1]; rescale it",
    ),
    (
        {"mask": torch.linspace(-1, 1, 32).expand(32, 32)},
        "the mask of an image prompt lies in [-1, 1], not in [0, 1]; rescale it",
    ),
    ({"mask": torch.full((32, 32), NAN)}, "the mask of an image prompt lies in [nan, nan], not in [0, 1]; rescale it"),
]


@pytest.mark.parametrize(("change", "message"), PROMPTS)
def test_image_prompts_that_say_what_cannot_be(world: World, change: dict[str, Any], message: str) -> None:
    prompts = world.prompt(), world.prompt(**change)
    with pytest.raises(RequestError) as caught:
        Engine(world.sd).submit(Generation(prompt="", image_prompts=prompts))
    _says(caught, message)


def test_an_image_prompt_of_another_base(world: World) -> None:
    with pytest.raises(AdapterError) as caught:
        Engine(world.sdxl).submit(Generation(prompt="", image_prompts=(world.prompt(),)))
    _says(
        caught,
        f"an image prompt has keys for 4 layers of widths up to 64, base {world.sdxl.name!r} has 8 up to 64; make it "
        "with an adapter of this architecture",
    )


@pytest.mark.parametrize("side", ["conditional", "unconditional"])
@pytest.mark.parametrize("part", ["keys", "values"])
@pytest.mark.parametrize("wrong", [NAN, INF])
def test_keys_and_values_that_are_no_numbers(world: World, side: str, part: str, wrong: float) -> None:
    prompt = world.prompt()
    layers = list(getattr(getattr(prompt, side), part))
    layers[2] = layers[2].clone()
    layers[2][0, 1, 3] = wrong
    broken = prompt._replace(**{side: getattr(prompt, side)._replace(**{part: tuple(layers)})})
    with pytest.raises(AdapterError) as caught:
        Engine(world.sd).submit(Generation(prompt="", image_prompts=(broken,)))
    _says(caught, "an image prompt has keys or values that are not numbers; check the adapter and its scale")


def _factors(*factors: float) -> LayerScales:
    return LayerScales(factors)


SCALES: list[tuple[dict[str, Any], str]] = [
    ({"scale": 5.1}, "scale 5.1 is outside [-1, 5]; choose a number between"),
    ({"scale": -1.5}, "scale -1.5 is outside [-1, 5]; choose a number between"),
    ({"scale": NAN}, "scale nan is outside [-1, 5]; choose a number between"),
    ({"scale": INF}, "scale inf is outside [-1, 5]; choose a number between"),
    ({"shortcut_scale": 9.0}, "shortcut_scale 9 is outside [-1, 5]; choose a number between"),
    ({"lora_scale": NAN}, "lora_scale nan is outside [-1, 5]; choose a number between"),
    ({"weights": (1.0, NAN)}, "weight of picture 2: nan is outside [-1, 5]; choose a number between"),
    ({"weights": (7.0, 1.0)}, "weight of picture 1: 7 is outside [-1, 5]; choose a number between"),
    ({"weights": ()}, "0 weights were given for 2 pictures; give one each"),
    ({"weights": (1.0, 1.0, 1.0)}, "3 weights were given for 2 pictures; give one each"),
    (
        {"weights": (1.0,), "combination": "average"},
        "1 weights were given for 2 pictures; give one each",
    ),
    (
        {"layers": _factors(1.0, 1.0, INF, 1.0)},
        "factor of layer 3: inf is outside [-1, 5]; choose a number between",
    ),
    (
        {"layers": _factors(1.0, 1.0)},
        "2 layer factors were given for an adapter of 4 layers; give one each",
    ),
    (
        {"weights": (1.0, -1.0), "combination": "norm_average"},
        "the weights of several pictures add up to 0, so they have no mean; change one",
    ),
]


@pytest.mark.parametrize(("said", "message"), SCALES)
def test_scales_out_of_range(world: World, said: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError) as caught:
        guided_image_prompt(world.adapter, embedding_features(torch.ones(2, EMBED)), PromptScales(**said))
    _says(caught, message)


def test_weights_that_add_up_to_nothing_but_for_rounding() -> None:
    assert sum((0.1, 0.2, -0.3)) != 0
    features = ImageFeatures((torch.ones(3, EMBED),), (torch.zeros(1, EMBED),))
    with pytest.raises(AdapterError, match="add up to 0"):
        merged_features(features, "average", (0.1, 0.2, -0.3))


def test_presets_of_other_architectures(world: World) -> None:
    with pytest.raises(RequestError) as caught:
        layer_scales("style", layer_places(world.sd.unet))
    _says(
        caught,
        "layer preset 'style' is for Stable Diffusion 1.x, 2.x and XL, and this base has 4 transformers; give a factor "
        "for each layer or choose one of linear, ease_in, ease_out, ease_in_out, reverse_in_out, weak_input, "
        "weak_middle, weak_output, strong_middle",
    )


# Adapters.


def test_an_encoder_that_speaks_otherwise(world: World, encoder: ImageEncoder) -> None:
    with torch.device("meta"):
        adapter = IPAdapter.for_unet(world.sd.unet, "plus", features={"hidden_states": 1280})
    with pytest.raises(AdapterError) as caught:
        require_encoder(adapter, encoder)
    _says(
        caught,
        "the adapter reads hidden_states of width 1280, image encoder 'toy/image_encoder' gives 128; use OpenCLIP "
        "ViT-H/14, in h94/IP-Adapter as models/image_encoder",
    )


def test_an_adapter_of_sdxl_on_sd_and_back(world: World) -> None:
    wide = IPAdapter.for_unet(world.sdxl.unet, features={"image_embeds": EMBED})
    with pytest.raises(AdapterError) as caught:
        wide.require_fit(world.sd.unet)
    cure = "use an adapter trained on a base of this architecture"
    _says(caught, f"the adapter has 8 layers for a text width of 80, the base has 4 for 32; {cure}")
    with pytest.raises(AdapterError) as caught:
        world.adapter.require_fit(world.sdxl.unet)
    _says(caught, f"the adapter has 4 layers for a text width of 32, the base has 8 for 80; {cure}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ip_adapter.1.to_v_ip.weight": None}, "ip_adapter.1.to_v_ip.weight"),
        ({"ip_adapter.1.to_q_ip.weight": torch.zeros(2, 2)}, "ip_adapter.1.to_q_ip.weight"),
        ({"image_proj.norm.gain": torch.zeros(2)}, "image_proj.norm.gain"),
        ({"image_proj.norm.bias": torch.zeros(5)}, "image_proj.norm.bias"),
    ],
)
def test_keys_that_are_missing_left_over_or_of_another_shape(
    world: World, change: dict[str, torch.Tensor | None], says: str, tmp_path: Path
) -> None:
    state = {**world.adapter.state_dict(), **change}
    save_file({key: value for key, value in state.items() if value is not None}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=re.escape(says)) as caught:
        load_adapter(tmp_path / "a.safetensors")
    assert f"adapter file '{tmp_path}/a.safetensors'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bin_with_code_in_it_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    file = tmp_path / "evil.bin"
    torch.save({"image_proj": Evil(), "ip_adapter": {}}, file)
    with pytest.raises(AdapterError) as caught:
        load_adapter(file)
    _says(
        caught,
        f"adapter file '{file}' holds more than weights, so it may run code and was not opened; convert it to "
        ".safetensors where it came from",
    )
    assert not (tmp_path / "ran").exists()


def test_a_mask_may_be_of_any_number_type(world: World) -> None:
    """What is refused is its range, not how it was stored."""
    stripes = np.tile(np.array([0, 1], np.uint8), (SIDE_PX, SIDE_PX // 2))
    for mask in (torch.from_numpy(stripes), torch.from_numpy(stripes).bool(), torch.from_numpy(stripes).double()):
        engine = Engine(world.sd)
        engine.submit(Generation(prompt="", steps=1, image_prompts=(world.prompt(mask=mask),)))
        assert not engine.step().failures
