"""No row feels another: random mixed batches in which one row is changed in one thing, and the others are not.

Where the change leaves the shapes of the call as they are, the others are the same to 1e-6. Where it does not (guidance
on or off, another number of tokens, prompts, LoRA or ControlNet rows), sums are taken in other groups and round
differently: 1e-5 of the row's largest number, of which a third was the most ever seen.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature, VariantName
from nigaoe.core.attention import AttentionLora
from nigaoe.core.bases import Base, load_base
from nigaoe.core.controlnets import ControlNet, load_controlnet
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Control, Generation, GuidedImagePrompt, Row
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_prompts.features import ImageFeatures
from nigaoe.core.image_prompts.layer_scales import LayerScales
from nigaoe.core.image_prompts.prompt import PromptScales, ScaledSides, guided_image_prompt
from nigaoe.core.samplers.registry import SAMPLERS
from nigaoe.core.unet_call import Runner, UNetCall
from tiny_worlds import SIDE_PX, make_controlnet

SAME_SHAPES, OTHER_SHAPES = 1e-6, 1e-5
"""By how much the others may differ; the second is a share of the largest number in their latents."""
STEPS = 3
"""Taken in every case; rows of few steps leave in between."""
WIDTHS: dict[Feature, int] = {"image_embeds": 24, "hidden_states": 40, "identity": 16}
VARIANTS: dict[str, VariantName] = {
    "base": "base",
    "full": "full",
    "plus": "plus",
    "portrait": "portrait",
    "faceid": "faceid",
    "another faceid": "faceid",
    "faceid-plusv2": "faceid-plusv2",
}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "prompt": ("a photo of a man", "a woman with a hat", ""),
    "negative_prompt": ("", "blurry"),
    "adapters": (*((name,) for name in VARIANTS), (), ("base", "faceid"), ("faceid", "another faceid")),
    "look": (0, 1, 2),
    "scale": (0.8, 0.3, -0.5),
    "layers": ("alike", "eased", "swapped"),
    "sides": get_args(ScaledSides),
    "window": ((0.0, 1.0), (0.0, 0.5), (0.25, 1.0)),
    "mask": (0, None, 1),
    "lora_scale": (1.0, 0.4),
    "shortcut_scale": (1.0, 0.5),
    "guidance_scale": (4.0, 1.0, 7.5),
    "sampler": tuple(SAMPLERS),
    "steps": (4, 6, 9),
    "seed": (0, 1, 2),
    "init_image": (None, 0, 1),
    "strength": (0.5, 0.8, 1.0),
    "inpaint_mask": (None, 0, 1),
    "controls": ((), (0,), (0, 1)),
    "control_image": (0, 1),
    "control_scale": (0.8, 0.3),
    "original_size": (None, (64, 48)),
    "crop_top_left": ((0, 0), (3, 5)),
}
PLAIN = frozenset(Generation.__dataclass_fields__) - {"init_image", "inpaint_mask", "controls"}
"""What a recipe has as a generation has it."""
XL_ALONE = ("original_size", "crop_top_left")
Recipe = dict[str, Any]
"""An option of each kind."""


@dataclass(eq=False, repr=False)
class World:
    """A tiny base, adapters of it and two ControlNets."""

    base: Base
    adapters: dict[str, IPAdapter]
    nets: list[ControlNet]
    shapes: list[object] = field(default_factory=list)
    """Of what was called since somebody emptied it."""

    def __post_init__(self) -> None:
        self.prompts = cache(self._prompts)
        for net in self.nets:
            net.model.register_forward_pre_hook(lambda _, args: self.shapes.append(_shapes(args)))

    def watched(self, runner: Runner, unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
        """Call it and remember the shapes."""
        self.shapes.append(_shapes(call))
        return runner(unet, call)

    def generation(self, recipe: Recipe) -> Generation:
        """What a recipe describes."""
        prompts = self.prompts(
            recipe["adapters"],
            recipe["look"],
            recipe["layers"],
            recipe["mask"],
            scale=recipe["scale"],
            sides=recipe["sides"],
            start=recipe["window"][0],
            end=recipe["window"][1],
            lora_scale=recipe["lora_scale"],
            shortcut_scale=recipe["shortcut_scale"],
        )
        has_picture = recipe["init_image"] is not None
        image, scale = _picture(recipe["control_image"]), recipe["control_scale"]
        plain = {name: option for name, option in recipe.items() if name in PLAIN}
        return Generation(
            **plain,
            image_prompts=prompts,
            init_image=_picture(2 + recipe["init_image"]) if has_picture else None,
            inpaint_mask=_white(recipe["inpaint_mask"]) if has_picture and recipe["inpaint_mask"] is not None else None,
            controls=tuple(
                Control(net=self.nets[i], image=image, scale=scale, end=1 - i / 2) for i in recipe["controls"]
            ),
        )

    def _prompts(
        self, names: tuple[str, ...], look: int, layers: str, mask: int | None, **scales: Any
    ) -> tuple[GuidedImagePrompt, ...]:
        where = None if mask is None else _soft_mask(mask)
        return tuple(self._prompt(self.adapters[name], look, layers, where, scales) for name in names)

    def _prompt(
        self, adapter: IPAdapter, look: int, layers: str, mask: Tensor | None, scales: dict[str, Any]
    ) -> GuidedImagePrompt:
        generator = torch.Generator().manual_seed(look)
        shapes = {name: (1, 10, width) if name == "hidden_states" else (1, width) for name, width in WIDTHS.items()}
        seen = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        features = tuple(seen[name] for name in adapter.variant.inputs)
        count = len(adapter.cross_layers)
        eased = tuple(0.2 + i / count for i in range(count))
        chosen = {"alike": None, "eased": LayerScales(eased), "swapped": LayerScales(eased, frozenset({0, count - 1}))}
        return guided_image_prompt(
            adapter,
            ImageFeatures(features, tuple(torch.zeros_like(x) for x in features)),
            PromptScales(layers=chosen[layers], **scales),
            mask,
        )


def _make_world(folder: Path, nets: Path) -> World:
    base = load_base(str(folder))
    adapters = {}
    for i, (name, variant) in enumerate(VARIANTS.items()):
        torch.manual_seed(20 + i)
        adapter = IPAdapter.for_unet(base.unet, variant, features=WIDTHS, lora_rank=4).eval().requires_grad_(False)
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        adapters[name] = adapter
    made = [load_controlnet(str(make_controlnet(base.unet, nets / str(i), seed=i))) for i in range(2)]
    return World(base, adapters, made)


@pytest.fixture(scope="module")
def sd(tiny_base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    return _make_world(tiny_base("sd"), tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def sdxl(tiny_base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    return _make_world(tiny_base("sdxl"), tmp_path_factory.mktemp("nets"))


@cache
def _picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


@cache
def _white(which: int) -> Image.Image:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    mask[(slice(4, 20), slice(12, 32))[which]] = 255
    return Image.fromarray(mask)


@cache
def _soft_mask(which: int) -> Tensor:
    ramp = torch.linspace(0, 1, SIDE_PX).expand(SIDE_PX, SIDE_PX)
    return (ramp, 1 - ramp.T)[which].contiguous()


def _shapes(value: object) -> object:
    """Everything about the inputs of a call but the numbers in its tensors."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, AttentionLora):
        # Low-rank products are added to a row in the order of the weights.
        return value.weights_id, None if value.rows is None else len(value.rows)
    if isinstance(value, dict):
        return tuple((key, _shapes(part)) for key, part in value.items())
    if isinstance(value, tuple):
        return tuple(_shapes(part) for part in value)
    return value


def _run(world: World, recipes: Sequence[Recipe]) -> tuple[list[Row], list[object]]:
    """Rows after some steps, finished ones among them, and the shapes of all calls."""
    world.shapes.clear()
    engine = Engine(world.base)
    engine._runner = partial(world.watched, engine._runner)
    for recipe in recipes:
        engine.submit(world.generation(recipe))
    rows = list(engine._active)
    for _ in range(STEPS):
        assert not engine.step().failures
    return rows, list(world.shapes)


class Case(NamedTuple):
    """A batch, and the same with one thing changed in one row."""

    kind: str
    recipes: list[Recipe]
    victim: int
    changed: Recipe
    name: str


_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
RECIPES = st.fixed_dictionaries({name: st.sampled_from(options) for name, options in OPTIONS.items()})


@st.composite
def _cases(draw: st.DrawFn, name: str) -> Case:
    kind = "sdxl" if name in XL_ALONE else draw(st.sampled_from(("sd", "sd", "sdxl")))
    recipes = draw(st.lists(RECIPES, min_size=2, max_size=4))
    victim = draw(st.integers(0, len(recipes) - 1))
    option = draw(st.sampled_from([option for option in OPTIONS[name] if option != recipes[victim][name]]))
    return Case(kind, recipes, victim, {**recipes[victim], name: option}, name)


def _apart(ours: Row, theirs: Row) -> float:
    assert ours.position == theirs.position > 0
    assert torch.isfinite(ours.latents).all()
    return float((ours.latents - theirs.latents).abs().max())


def _size(row: Row) -> float:
    """Largest number in its latents, at least 1: samplers that count noise in sigmas start at 15."""
    return max(1.0, float(row.latents.abs().max()))


def _no_other_row_feels_it(world: World, case: Case) -> None:
    changed = [case.changed if i == case.victim else recipe for i, recipe in enumerate(case.recipes)]
    before, shapes = _run(world, case.recipes)
    after, other_shapes = _run(world, changed)
    is_same = shapes == other_shapes
    event("the same shapes" if is_same else "other shapes")
    for i, (ours, theirs) in enumerate(zip(before, after, strict=True)):
        if i != case.victim:
            allowed = SAME_SHAPES if is_same else OTHER_SHAPES * _size(ours)
            assert _apart(ours, theirs) <= allowed, f"row {i} feels {case.name} of row {case.victim}"


@pytest.mark.parametrize("name", OPTIONS)
def test_no_row_feels_a_change_of_another(sd: World, sdxl: World, name: str) -> None:
    """Ten random batches for each thing that can be changed, 230 in all: drawn at once, some would hardly be drawn."""

    @seed(zlib.crc32(name.encode()))
    @settings(max_examples=10, **_SETTINGS)
    @given(case=_cases(name))
    def check(case: Case) -> None:
        _no_other_row_feels_it(sdxl if case.kind == "sdxl" else sd, case)

    assert 10 * len(OPTIONS) >= 200
    check()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_change_is_felt_by_its_own_row(sdxl: World, name: str) -> None:
    """Otherwise the tests above would show nothing."""
    recipe: Recipe = {option: options[-1] for option, options in OPTIONS.items()}
    recipe |= {"adapters": ("faceid-plusv2",), "guidance_scale": 4.0, "sampler": "euler_a", "steps": 6}
    recipe |= {"strength": 0.8, "layers": "eased"}
    for option in OPTIONS[name]:
        if option != recipe[name]:
            (ours,), _ = _run(sdxl, [recipe])
            (theirs,), _ = _run(sdxl, [{**recipe, name: option}])
            assert _apart(ours, theirs) > 1e-4, f"{name} {option!r} changes nothing"


@seed(0)
@settings(max_examples=15, **_SETTINGS)
@given(recipe=RECIPES, company=st.lists(RECIPES, max_size=7), late=st.integers(0, 2), copies=st.integers(1, 8))
def test_a_seed_gives_one_picture_alone_and_in_any_company(
    sd: World, recipe: Recipe, company: list[Recipe], late: int, copies: int
) -> None:
    """The whole run: alone in calls of one row, and among up to seven others, some of them copies, that came before."""
    alone, among = Engine(sd.base, max_rows=1), Engine(sd.base, max_rows=8)
    alone.submit(sd.generation(recipe))
    (expected,) = alone._active
    for other in company:
        among.submit(sd.generation(other))
    for _ in range(late):
        among.step()
    tickets = [among.submit(sd.generation(recipe)) for _ in range(copies)]
    rows = [row for row in among._active if row.id in tickets]
    picture = _finished(alone)[expected.id]
    pictures = _finished(among)
    for row in rows:
        assert row.is_done
        assert _apart(expected, row) <= OTHER_SHAPES * _size(expected)
        assert np.abs(np.asarray(pictures[row.id], np.int16) - np.asarray(picture, np.int16)).max() <= 1


def _finished(engine: Engine) -> dict[int, Image.Image]:
    pictures: dict[int, Image.Image] = {}
    while engine.active_rows:
        stepped = engine.step()
        assert not stepped.failures
        pictures |= stepped.pictures
    return pictures


def test_a_prompt_of_several_rows_is_refused(sd: World) -> None:
    """Side by side with others, its rows would be theirs."""
    several = sd.adapters["base"](torch.randn(3, WIDTHS["image_embeds"], generator=torch.Generator().manual_seed(1)))
    one = several.rows(0, 1)
    for conditional, unconditional in ((several, one), (one, several)):
        prompt = GuidedImagePrompt(conditional, unconditional)
        with pytest.raises(AdapterError, match="3 rows"):
            Engine(sd.base).submit(Generation(prompt="", image_prompts=(prompt,)))
