import asyncio
import base64
import json
import re
from typing import Any, get_args

import pytest

from asked import Painter, picture_file, services_of
from nigaoe.core.image_prompts.layer_scales import PRESETS
from nigaoe.serve.config import Defaults, Preset, ServeConfig
from nigaoe.serve.http.access import Caller
from nigaoe.serve.http.canvas import nearest
from nigaoe.serve.http.native import GenerateRequest, native_order
from nigaoe.serve.http.native_schemas import LayerPreset
from nigaoe.serve.http.pictures import size_of
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Order

FACE = base64.b64encode(picture_file()).decode()
MASK = base64.b64encode(picture_file((96, 80), "PNG", "L")).decode()
SOMEBODY = Caller("somebody", 3, may_manage=False)
CONFIG = ServeConfig.model_validate(
    {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"a": "toy/adapter", "b": "toy/adapter"},
        "limits": {"width": 2048},
    }
)


def ordered(config: ServeConfig = CONFIG, **said: Any) -> Order:
    request = GenerateRequest.model_validate(said, strict=True)
    return asyncio.run(native_order(request, services_of(config, Painter()), SOMEBODY, "req_1"))


def problem_of(**said: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        ordered(**said)
    assert caught.value.param is not None
    assert re.search(rf"{caught.value.param.split('.')[-1]}|pictures were sent", caught.value.message)
    return caught.value


def test_defaults_fill_in_what_a_request_leaves_out() -> None:
    order = ordered(prompt="p", seed=5, n=3, image_prompts=[{"images": [FACE]}])
    assert (order.id, order.base, order.steps, order.guidance_scale, order.size) == (
        "req_1",
        "toy/anime",
        25,
        7.5,
        None,
    )
    assert (order.seeds, order.priority, order.deadline_s) == ((5, 6, 7), 3, 600.0)
    (prompt,) = order.image_prompts
    assert (prompt.adapter.name, prompt.scale, len(prompt.pictures)) == ("a", 1.0, 1)


def test_all_that_an_image_prompt_can_say_arrives() -> None:
    said = {
        "adapter": "b",
        "images": [FACE, FACE],
        "negative": FACE,
        "scale": 0.7,
        "layers": "style",
        "sides": "k_v",
        "combination": "average",
        "weights": [1.0, 0.5],
        "start": 0.1,
        "end": 0.9,
        "mask": MASK,
        "crop": "pad",
        "crop_position": [0.5, 0.0],
        "shortcut_scale": 0.9,
        "lora_scale": 0.6,
        "noise": "shuffle",
        "noise_strength": 0.3,
        "noise_blur": 2.0,
    }
    order = ordered(image_prompts=[said], size="64x32")
    (prompt,) = order.image_prompts
    for name in ("scale", "layers", "sides", "combination", "start", "end", "crop", "shortcut_scale", "lora_scale"):
        assert getattr(prompt, name) == said[name]
    for name in ("noise", "noise_strength", "noise_blur"):
        assert getattr(prompt, name) == said[name]
    assert (prompt.weights, prompt.crop_position) == ((1.0, 0.5), (0.5, 0.0))
    assert prompt.negative is not None
    assert prompt.mask is not None
    assert size_of(prompt.mask) == (64, 32)
    assert ordered(image_prompts=[{"images": [FACE], "layers": [1.0, 0.5]}]).image_prompts[0].layers == (1.0, 0.5)


def test_parameters_are_the_request_as_it_was_understood() -> None:
    order = ordered(prompt="p", seeds=[3, 9], image_prompts=[{"images": [FACE], "scale": 0.5}], init_image=FACE)
    told = json.loads(order.parameters)
    assert told["seeds"] == [3, 9]
    assert (told["steps"], told["sampler"], told["strength"]) == (25, "ddim", 0.8)
    assert told["init_image"] == told["image_prompts"][0]["images"][0]
    assert told["init_image"].startswith("sha256:")
    assert FACE not in order.parameters


def test_layer_presets_are_those_of_core() -> None:
    assert get_args(LayerPreset) == PRESETS


def test_random_seeds_differ_between_requests() -> None:
    assert len({ordered(prompt="p").seeds for _ in range(4)}) > 1


def test_a_picture_to_start_from_is_scaled_to_what_the_base_draws() -> None:
    order = ordered(init_image=FACE, inpaint_mask=MASK)
    assert order.size == (96, 80)
    assert order.init is not None
    assert order.inpaint_mask is not None
    assert size_of(order.init) == size_of(order.inpaint_mask) == (96, 80)
    odd = base64.b64encode(picture_file((101, 55))).decode()
    assert ordered(init_image=odd).size == (96, 48)
    assert ordered(init_image=odd, size="64x128").size == (64, 128)
    # A region of what starts from nothing: the base's own size.
    assert ordered(image_prompts=[{"images": [FACE], "mask": MASK}]).size == (96, 96)


@pytest.mark.parametrize(
    ("size", "multiple", "most", "wanted"),
    [
        ((512, 768), 64, (1024, 1024), (512, 768)),
        ((4000, 3000), 64, (1024, 1024), (1024, 768)),
        ((10, 10), 64, (1024, 1024), (64, 64)),
        ((1000, 1000), 64, (1000, 1000), (960, 960)),
    ],
)
def test_nearest_size(size: tuple[int, int], multiple: int, most: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert nearest(size, multiple, most) == wanted


def test_quality_names_presets_and_fields_override_them() -> None:
    fast = CONFIG.defaults.quality | {"turbo": Preset(steps=4, sampler="lcm", guidance_scale=1.0)}
    config = CONFIG.model_copy(update={"defaults": Defaults(quality=fast)})
    order = ordered(config, quality="turbo", steps=6)
    assert (order.steps, order.sampler, order.guidance_scale) == (6, "lcm", 1.0)
    for word, steps in (("auto", 25), ("low", 8), ("standard", 20), ("hd", 40), ("xhigh", 40), ("max", 40)):
        assert ordered(quality=word).steps == steps
    few = ordered(quality="lcm")
    assert (few.steps, few.sampler, few.guidance_scale) == (4, "lcm", 1.0)


@pytest.mark.parametrize(
    ("said", "status", "param"),
    [
        ({"n": 11}, 400, "n"),
        ({"seeds": list(range(11))}, 400, "n"),
        ({"seeds": [1], "seed": 1}, 400, "seed"),
        ({"seeds": [1], "n": 2}, 400, "n"),
        ({"steps": 201}, 400, "steps"),
        ({"guidance_scale": 31.0}, 400, "guidance_scale"),
        ({"size": "huge"}, 400, "size"),
        ({"size": "4096x64"}, 400, "size"),
        ({"size": "\u0663x64"}, 400, "size"),
        ({"prompt": "p" * 8001}, 400, "prompt"),
        ({"quality": "best"}, 400, "quality"),
        ({"partial_images": 4}, 400, "partial_images"),
        ({"base": "a"}, 404, "base"),
        ({"inpaint_mask": MASK}, 400, "inpaint_mask"),
        ({"strength": 0.5}, 400, "strength"),
        ({"init_image": FACE, "inpaint_mask": base64.b64encode(picture_file((8, 8))).decode()}, 400, "inpaint_mask"),
        ({"image_prompts": [{"images": [FACE]}] * 5}, 400, "image_prompts"),
        ({"image_prompts": [{"images": [FACE] * 9}]}, 400, "image_prompts"),
        ({"image_prompts": [{}]}, 400, "image_prompts.0.images"),
        ({"image_prompts": [{"images": [FACE], "adapter": "c"}]}, 404, "image_prompts.0.adapter"),
        ({"image_prompts": [{"images": [FACE], "scale": 2.5}]}, 400, "image_prompts.0.scale"),
        ({"image_prompts": [{"images": [FACE], "weights": [1.0, 1.0]}]}, 400, "image_prompts.0.weights"),
        ({"image_prompts": [{"images": [FACE], "start": 0.5, "end": 0.5}]}, 400, "image_prompts.0.start"),
        ({"image_prompts": [{"images": [FACE], "noise_strength": 0.1}]}, 400, "image_prompts.0.noise_strength"),
        ({"image_prompts": [{"embedding": "emb_0"}]}, 404, "image_prompts.0.embedding"),
        ({"image_prompts": [{"embedding": "emb_0", "images": [FACE]}]}, 400, "image_prompts.0.embedding"),
        ({"image_prompts": [{"images": [FACE, "aGVsbG8="]}]}, 400, "image_prompts.0.images.1"),
    ],
)
def test_out_of_bounds_is_named(said: dict[str, Any], status: int, param: str) -> None:
    problem = problem_of(**said)
    assert (problem.status, problem.param) == (status, param)


def test_a_picture_without_any_adapter_is_refused() -> None:
    with pytest.raises(Problem, match="this server has none"):
        ordered(ServeConfig(bases=["toy/anime"]), image_prompts=[{"images": [FACE]}])


def test_requests_survive_being_stored() -> None:
    request = GenerateRequest(prompt="p", image_prompts=[{"images": [FACE], "scale": 0.5}])
    assert GenerateRequest.model_validate_json(request.model_dump_json()) == request
