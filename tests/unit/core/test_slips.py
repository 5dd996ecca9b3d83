"""What people write by mistake, and what they mean: one sentence, or the right thing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Control, Generation
from nigaoe.core.errors import AdapterError, BaseModelError, ImageError, RequestError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.masks import as_mask
from nigaoe.core.image_prompts.prompt import PromptScales


def _picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 32, 3), dtype=np.uint8))


GENERATIONS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ["a"]}, r"prompt is \['a'\], of type list; give text"),
    ({"negative_prompt": None}, "negative_prompt is None, of type NoneType; give text, empty for none"),
    ({"seed": 1.5}, "seed is 1.5, of type float; give a whole number"),
    ({"steps": "2"}, "steps is '2', of type str; give a whole number"),
    ({"guidance_scale": None}, "guidance_scale is None, of type NoneType; give a number, 1 for no guidance"),
    ({"width": 96.0}, "width is 96.0, of type float; give a whole number of pixels"),
    ({"image_prompts": (_picture(),)}, "image_prompts hold something of type Image; give prompts as"),
    (
        {"image_prompts": "x"},
        "image_prompts is of type str; give a tuple of prompts as `Conditioner.prompt` makes them",
    ),
    ({"controls": (_picture(),)}, "controls hold something of type Image; give `Control`s"),
    ({"inpaint_mask": np.zeros((4, 4))}, "inpaint_mask is of type ndarray; give a PIL picture"),
]


@pytest.mark.parametrize(("asked", "message"), GENERATIONS)
def test_generations_of_another_kind(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Generation(**{"prompt": "x", **asked})


SCALES: list[tuple[dict[str, Any], str]] = [
    ({"combination": "mean"}, "there is no combination 'mean'; choose one of concat, average, norm_average, add, subt"),
    ({"sides": "V only"}, "there is no sides 'V only'; choose one of v, k_v, k_v_c, k_mean_v_c"),
    ({"layers": "style"}, r"layers is 'style'; give `layer_scales\(preset, layer_places\(unet\)\)` or"),
    ({"start": 0.8, "end": 0.2}, "start 0.8 and end 0.2 are no window in"),
]


@pytest.mark.parametrize(("asked", "message"), SCALES)
def test_scales_of_another_kind(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        PromptScales(**asked)


def test_lists_are_taken_for_tuples() -> None:
    assert hash(PromptScales(weights=[1.0, 0.5])) == hash(PromptScales(weights=(1.0, 0.5)))  # type: ignore[arg-type]
    assert Reference(images=[_picture()], crop_position=[0.5, 0.5]).crop_position == (0.5, 0.5)  # type: ignore[arg-type]


def test_pictures_of_any_kind_are_taken_and_others_refused() -> None:
    array = np.asarray(_picture())
    (taken,) = Reference(images=(array,)).images  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(taken), array)
    for wrong, message in (
        ({"images": _picture()}, "images is of type Image; give a tuple of pictures"),
        ({"images": ("face.png",)}, "a picture of type str was given; give PIL, an array or a tensor"),
        ({"images": (Image.new("RGB", (0, 0)),)}, "a picture of 0x0 px has no pixels"),
    ):
        with pytest.raises(ImageError, match=message):
            Reference(**wrong)
    with pytest.raises(AdapterError, match=r"scales is 0.8; give PromptScales\(scale=0.8\)"):
        Reference(scales=0.8)  # type: ignore[arg-type]


def test_a_phone_that_was_held_sideways_is_turned(tmp_path: Path) -> None:
    sideways = _picture().rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "phone.png", exif=exif)
    with Image.open(tmp_path / "phone.png") as phone:
        (taken,) = Reference(images=(phone,)).images
        started = Generation(prompt="x", init_image=phone).init_image
    assert started is not None
    for seen in (taken, started):
        assert np.array_equal(np.asarray(seen), np.asarray(_picture()))


def test_what_is_transparent_lies_over_white() -> None:
    cut_out = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    (taken,) = Reference(images=(cut_out,)).images
    assert taken.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)),
        np.array([[0, 255], [255, 0]], np.uint8),
        np.array([[False, True], [True, False]]),
        torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
    ],
)
def test_masks_of_any_kind_are_taken(mask: Any) -> None:
    assert as_mask(mask).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_masks_that_are_none_are_refused() -> None:
    for wrong, message in (
        ([[0.0]], "a mask of type list was given; give PIL, an array or a tensor"),
        (torch.zeros(2, 2, 2), r"a mask of shape \[2, 2, 2\] was given; give \[H, W\]"),
        (torch.full((2, 2), 255.0), r"a mask must lie in \[0, 1\], this one lies in \[255, 255\]; rescale it"),
    ):
        with pytest.raises(ImageError, match=message):
            as_mask(wrong)  # type: ignore[arg-type]


def test_guidance_up_to_one_is_none_as_in_diffusers(tiny: Base) -> None:
    latents = []
    for guidance in (0.0, 0.5, 1.0):
        engine = Engine(tiny)
        engine.submit(Generation(prompt="a red hat", seed=3, steps=2, guidance_scale=guidance))
        (row,) = engine._active
        assert not row.is_guided
        while engine.active_rows:
            engine.step()
        latents.append(row.latents)
    assert torch.equal(latents[0], latents[2])
    assert torch.equal(latents[1], latents[2])


@pytest.fixture(scope="module")
def tiny(tiny_base: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_base("sd")))


def test_limits_that_let_nothing_through_are_refused(tiny: Base) -> None:
    for limits in ({"max_rows": 0}, {"decode_rows": -1}):
        with pytest.raises(RequestError, match="lets no picture through; give at least 1"):
            Engine(tiny, **limits)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a picture of 5000000x32 px is larger than the 4096x4096 allowed"):
        Engine(tiny).submit(Generation(prompt="x", width=5_000_000))
    transparent = Image.new("RGBA", (32, 32))
    with pytest.raises(RequestError, match="inpaint_mask has transparency, which is used both ways; give a grey one"):
        Engine(tiny).submit(Generation(prompt="x", init_image=Image.new("RGB", (32, 32)), inpaint_mask=transparent))
    with pytest.raises(RequestError, match="net is of type NoneType; give what `load_controlnet` returns"):
        Control(net=None, image=_picture())  # type: ignore[arg-type]


def test_precisions_and_devices_that_are_not_there(tiny_base: Callable[[str], Path]) -> None:
    with pytest.raises(BaseModelError, match="there is no precision 'fp16'; choose one of float32, bfloat16, float16"):
        load_base(str(tiny_base("sd")), "fp16")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(BaseModelError, match="device 'cuda' was asked for and torch sees no CUDA device"):
            load_base(str(tiny_base("sd")), device="cuda")


class _Face:
    """Finds the same face in every picture."""

    name, dim = "same", 16

    def find(self, image: Image.Image) -> list[Any]:
        from nigaoe.core.faces.alignment import template
        from nigaoe.core.faces.encoder import Face

        return [Face(torch.ones(16), (0.0, 0.0, 32.0, 48.0), template(32), 1.0)]


def test_a_remembered_prompt_does_not_hold_its_adapters_lora(base: Base, encoder: ImageEncoder) -> None:
    """Counted with it, one FaceID prompt of SDXL was larger than the whole memory."""
    adapter = IPAdapter.for_unet(base.unet, "faceid", features={"identity": 16}, lora_rank=128).requires_grad_(False)
    conditioner = Conditioner(encoder, _Face())
    loud, quiet = (
        conditioner.prompt(adapter, Reference(images=(_picture(),), scales=PromptScales(lora_scale=scale, end=scale)))
        for scale in (1.0, 0.25)
    )
    assert (conditioner.prompt_cache.misses, conditioner.prompt_cache.hits) == (1, 1)
    assert conditioner.prompt_cache.size_bytes < 2**20
    assert [lora.scale for lora in (*loud.conditional.loras, *quiet.unconditional.loras)] == [1.0, 0.25]
    assert (loud.end, quiet.end) == (1.0, 0.25)
    with torch.no_grad():
        next(adapter.parameters()).mul_(2.0)
    conditioner.prompt(adapter, Reference(images=(_picture(),)))
    assert conditioner.prompt_cache.misses == 2, "its weights are others now"
