"""The UNet call is one graph, whatever takes part in it, and other numbers in the same shapes need no other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base, load_base
from nigaoe.core.controlnets import ControlNet, load_controlnet
from nigaoe.core.engine.batch import pack
from nigaoe.core.engine.controls import with_controls
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Control, Generation, GuidedImagePrompt
from nigaoe.core.image_prompts.features import ImageFeatures
from nigaoe.core.image_prompts.prompt import PromptScales, guided_image_prompt
from nigaoe.core.unet_call import UNetCall, run_unet
from tiny_worlds import SIDE_PX, make_controlnet

WIDTHS: dict[Feature, int] = {"image_embeds": 24, "hidden_states": 40, "identity": 16}
ADAPTERS = {"base": "base", "plus": "plus", "faceid": "faceid", "another faceid": "faceid"}


@dataclass
class World:
    """A tiny base with adapters and a ControlNet."""

    base: Base
    adapters: dict[str, IPAdapter]
    net: ControlNet


@dataclass
class Graphs:
    """A backend that runs what was captured as it is, and keeps count."""

    captured: list[torch.fx.GraphModule] = field(default_factory=list)

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.captured.append(graph)
        return graph.forward


@pytest.fixture(scope="module", params=["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def world(
    request: pytest.FixtureRequest, tiny_base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> World:
    base = load_base(str(tiny_base(request.param)))
    adapters = {}
    for i, (name, variant) in enumerate(ADAPTERS.items()):
        torch.manual_seed(20 + i)
        adapter = IPAdapter.for_unet(base.unet, variant, features=WIDTHS, lora_rank=4).eval().requires_grad_(False)
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        adapters[name] = adapter
    net = load_controlnet(str(make_controlnet(base.unet, tmp_path_factory.mktemp("net"), seed=1)))
    return World(base, adapters, net)


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    torch._dynamo.reset()
    yield Graphs()
    torch._dynamo.reset()


def _prompt(
    world: World, name: str, look: int, scale: float, lora_scale: float = 1.0, mask: Tensor | None = None
) -> GuidedImagePrompt:
    generator = torch.Generator().manual_seed(look)
    adapter = world.adapters[name]
    features = tuple(
        torch.randn((1, 10, WIDTHS[kind]) if kind == "hidden_states" else (1, WIDTHS[kind]), generator=generator)
        for kind in adapter.variant.inputs
    )
    nothing = tuple(torch.zeros_like(x) for x in features)
    return guided_image_prompt(
        adapter, ImageFeatures(features, nothing), PromptScales(scale=scale, lora_scale=lora_scale), mask
    )


def _generations(world: World, look: int, lora_scale: float = 1.0) -> list[Generation]:
    """Rows of several adapters, two of them with LoRAs, one with two prompts and a mask, one with none, one controlled.

    `look` changes every number and no shape.
    """
    ramp = (look + torch.linspace(0, 1, SIDE_PX).expand(SIDE_PX, SIDE_PX)) / (look + 1)
    scale = 0.3 + 0.1 * look
    plain = Generation(prompt=f"person {look}", negative_prompt=f"not {look}", seed=look, steps=7 + look)
    control = Control(net=world.net, image=Image.new("RGB", (SIDE_PX, SIDE_PX), (40 * look, 90, 7)), scale=scale)
    both = (_prompt(world, "base", look, scale, mask=ramp), _prompt(world, "another faceid", look, scale, lora_scale))
    return [
        replace(plain, image_prompts=(_prompt(world, "plus", look, scale),)),
        replace(plain, image_prompts=(_prompt(world, "faceid", look, scale, lora_scale),), guidance_scale=1.0),
        replace(plain, image_prompts=both, sampler="euler"),
        replace(plain, controls=(control,)),
    ]


@torch.no_grad()
def _call(base: Base, generations: list[Generation]) -> UNetCall:
    """What the engine gives the UNet for these rows."""
    engine = Engine(base)
    for generation in generations:
        engine.submit(generation)
    rows = tuple(engine._active)
    batch = pack(rows)
    return with_controls(batch.call(torch.stack([row.latents for row in rows])), batch)


@torch.no_grad()
def _compare(base: Base, compiled: Any, call: UNetCall) -> None:
    torch.testing.assert_close(compiled(base.unet, call), run_unet(base.unet, call), rtol=1e-5, atol=1e-5)


def _compiled(graphs: Graphs) -> Any:
    return torch.compile(run_unet, fullgraph=True, dynamic=False, backend=graphs)


def test_a_call_of_everything_is_one_graph(world: World, graphs: Graphs) -> None:
    """Image prompts of several adapters, masks, LoRA rows, known text, residuals, SDXL's sizes: none breaks it."""
    call = _call(world.base, _generations(world, 1))
    assert len(call.image_prompts) == 2
    assert call.image_prompts[0].mask is not None
    assert call.image_prompts[0].regions is not None
    assert len(call.image_prompts[0].loras) == 2
    assert call.text is not None
    assert call.down_residuals is not None
    assert (call.pooled is not None) == (call.time_ids is not None) == world.base.is_xl
    _compare(world.base, _compiled(graphs), call)
    assert len(graphs.captured) == 1


def test_other_numbers_in_the_same_shapes_use_the_same_graph(world: World, graphs: Graphs) -> None:
    """Another prompt, seed, scale, timestep, picture, mask and control; then the two LoRAs in each other's rows."""
    compiled = _compiled(graphs)
    for look, lora_scale in ((1, 1.0), (2, 0.4)):
        _compare(world.base, compiled, _call(world.base, _generations(world, look, lora_scale)))
    world.adapters["faceid"], world.adapters["another faceid"] = (
        world.adapters["another faceid"],
        world.adapters["faceid"],
    )
    _compare(world.base, compiled, _call(world.base, _generations(world, 3)))
    assert len(graphs.captured) == 1
