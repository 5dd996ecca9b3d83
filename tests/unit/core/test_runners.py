"""Every way to call a UNet gives the same numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.attention import ImagePrompt, text_keys_values
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.packed import can_pack, packed
from nigaoe.core.engine.rows import Generation
from nigaoe.core.engine.runners import ROW_COUNTS, CompiledRunner, RunnerName, filled, make_runner
from nigaoe.core.engine.slots import stack_image_prompts
from nigaoe.core.errors import BaseModelError
from nigaoe.core.unet_call import UNetCall, run_unet


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def tiny(request: pytest.FixtureRequest, tiny_base: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_base(request.param)))


@torch.no_grad()
def _call(base: Base, rows: int) -> UNetCall:
    """Rows with one or two prompts of different length, one of them with a LoRA, one with a region."""
    generator = torch.Generator().manual_seed(rows)
    text = base.text_encoder.encode([f"a photo {i}" for i in range(rows)])
    prompts: list[list[ImagePrompt]] = []
    for i in range(rows):
        torch.manual_seed(i % 2)
        variant, features = ("base", torch.randn(1, 24)) if i % 2 else ("faceid", torch.randn(1, 512))
        adapter = IPAdapter.for_unet(base.unet, variant, features={"image_embeds": 24}, num_tokens=2 + i, lora_rank=4)
        prompt: ImagePrompt = adapter.eval().requires_grad_(False)(features)
        regions = {64: torch.rand(1, 64, 1, generator=generator), 16: torch.rand(1, 16, 1, generator=generator)}
        prompts.append([prompt._replace(regions=regions) if i == 1 else prompt] * (1 + i % 3))
    return UNetCall(
        sample=torch.randn(rows, 4, 8, 8, generator=generator),
        timesteps=torch.linspace(10, 900, rows),
        text_states=text.states,
        text=text_keys_values(base.cross_attention, text.states),
        image_prompts=stack_image_prompts(prompts),
        pooled=text.pooled,
        time_ids=torch.full((rows, 6), 32.0) if base.is_xl else None,
    )


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_filling_is_of_one_of_few_counts_and_changes_nothing(tiny: Base, rows: int) -> None:
    call = _call(tiny, rows)
    full = filled(call)
    assert len(full.sample) in ROW_COUNTS
    with torch.no_grad():
        difference = run_unet(tiny.unet, full)[:rows] - run_unet(tiny.unet, call)
    assert difference.abs().max() < 1e-5


def test_more_rows_than_foreseen_stay_as_they_are(tiny: Base) -> None:
    call = _call(tiny, 2)._replace(sample=torch.zeros(ROW_COUNTS[-1] + 1, 4, 8, 8))
    assert filled(call) is call


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_packed_weights_give_the_same(tiny: Base, rows: int) -> None:
    assert can_pack(tiny.unet), "torch lacks the operators, so the engine on the CPU is slower than it need be"
    before = {key: value.clone() for key, value in tiny.unet.state_dict().items()}
    runner, call = make_runner("packed", tiny.unet), _call(tiny, rows)
    with torch.no_grad():
        difference = runner(tiny.unet, call) - run_unet(tiny.unet, call)
        # Without keys and values of the text at hand, it makes them itself.
        plain = runner(tiny.unet, call._replace(text=None)) - run_unet(tiny.unet, call._replace(text=None))
    assert 0 < difference.abs().max() < 1e-5, "exactly equal would mean that nothing was packed"
    assert plain.abs().max() < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in tiny.unet.state_dict().items())


def test_a_packed_copy_holds_no_weight_twice(tiny: Base) -> None:
    copy = packed(tiny.unet)
    assert sum(p.numel() for p in copy.parameters()) < 0.1 * sum(p.numel() for p in tiny.unet.parameters())


def test_only_float32_on_the_cpu_is_packed(tiny_base: Callable[[str], Path]) -> None:
    assert not can_pack(load_base(str(tiny_base("sd")), "bfloat16").unet)


def test_compiled_calls_of_several_shapes_give_the_same(tiny_base: Callable[[str], Path]) -> None:
    base, runner = load_base(str(tiny_base("sd"))), CompiledRunner(backend="eager")
    for rows in (3, 5):
        call = _call(base, rows)
        with torch.no_grad():
            assert (runner(base.unet, call) - run_unet(base.unet, call)).abs().max() < 1e-5


def test_runners_refuse_what_they_are_not_for(tiny: Base, tiny_base: Callable[[str], Path]) -> None:
    with pytest.raises(BaseModelError, match="'graphed' needs a CUDA device, the base is on cpu; choose another"):
        make_runner("graphed", tiny.unet)
    with pytest.raises(BaseModelError, match="'packed' is for float32 on the CPU"):
        make_runner("packed", load_base(str(tiny_base("sd")), "bfloat16").unet)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["compiled", "graphed"])
def test_a_gpu_draws_the_same_by_every_runner(tiny_base: Callable[[str], Path], name: RunnerName) -> None:
    base = load_base(str(tiny_base("sd")), "float32", "cuda")
    generations = [Generation(prompt="a", seed=seed, steps=4 + seed % 3) for seed in range(5)]
    latents = []
    for runner in (make_runner("eager", base.unet), make_runner(name, base.unet)):
        engine = Engine(base, runner=runner)
        for generation in generations:
            engine.submit(generation)
        rows = list(engine._active)
        while engine.active_rows:
            engine.step()
        latents.append(torch.stack([row.latents for row in rows]))
    assert (latents[0] - latents[1]).abs().max() < 1e-2
