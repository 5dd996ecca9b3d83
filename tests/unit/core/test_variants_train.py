"""Every variant learns on every architecture: who gets gradients, that the loss falls, that the base stays as it is."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.adapters.variants import VARIANTS, Feature, VariantName
from nigaoe.core.attention import attach, detach
from nigaoe.core.bases import load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.image_prompts.features import ImageFeatures
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.unet_call import UNetCall, run_unet

ROWS, PATCHES, STEPS = 2, 5, 30
FEATURES: dict[Feature, int] = {"image_embeds": 24, "hidden_states": 40, "identity": 16}
SHAPES: dict[Feature, tuple[int, ...]] = {
    "image_embeds": (24,),
    "hidden_states": (PATCHES, 40),
    "identity": (16,),
}
COUNTED: list[VariantName] = [name for name, variant in VARIANTS.items() if variant.num_tokens]

FindBase = Callable[[str], Path]


@pytest.fixture(scope="module")
def find_unet(tiny_base: FindBase) -> Callable[[str], UNet2DConditionModel]:
    """A UNet as diffusers loads it, which takes no image prompts yet."""

    @cache
    def load(kind: str) -> UNet2DConditionModel:
        unet = UNet2DConditionModel.from_pretrained(tiny_base(kind), subfolder="unet")
        return unet.eval().requires_grad_(False)

    return load


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _new(unet: UNet2DConditionModel, variant: str, num_tokens: int | None = None) -> IPAdapter:
    torch.manual_seed(5)
    return IPAdapter.for_unet(unet, variant, features=FEATURES, num_tokens=num_tokens, lora_rank=4)


def _features(adapter: IPAdapter) -> tuple[Tensor, ...]:
    return tuple(_random(ROWS, *SHAPES[name], seed=7 + i) for i, name in enumerate(adapter.variant.inputs))


def _call(unet: UNet2DConditionModel) -> UNetCall:
    is_xl = unet.config.addition_embed_type == "text_time"
    return UNetCall(
        _random(ROWS, 4, 8, 8, seed=1),
        torch.tensor([31, 807]),
        _random(ROWS, 6, unet.config.cross_attention_dim, seed=2),
        pooled=_random(ROWS, 24, seed=3) if is_xl else None,
        time_ids=torch.tensor([[32.0, 32, 0, 0, 32, 32]] * ROWS) if is_xl else None,
    )


@torch.no_grad()
def _plain(unet: UNet2DConditionModel) -> Tensor:
    """What the UNet says as diffusers calls it."""
    call = _call(unet)
    added = None if call.pooled is None else {"text_embeds": call.pooled, "time_ids": call.time_ids}
    out: Tensor = unet(call.sample, call.timesteps, call.text_states, added_cond_kwargs=added).sample
    return out


def _predict(unet: UNet2DConditionModel, adapter: IPAdapter) -> Tensor:
    return run_unet(unet, _call(unet)._replace(image_prompts=(adapter(*_features(adapter)),)))


def _loss(unet: UNet2DConditionModel, adapter: IPAdapter) -> Tensor:
    return F.mse_loss(_predict(unet, adapter), _random(ROWS, 4, 8, 8, seed=4))


def _train(unet: UNet2DConditionModel, adapter: IPAdapter, steps: int = STEPS) -> list[float]:
    """Loss before each step, and after the last."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = _loss(unet, adapter)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, _loss(unet, adapter).item()]


def _without_gradient(unet: UNet2DConditionModel, adapter: IPAdapter) -> set[str]:
    """Parameters that get none, or nothing but zeros."""
    adapter.zero_grad()
    _loss(unet, adapter).backward()
    return {name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()}


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_weight_of_the_adapter_and_none_of_the_base(
    find_unet: Callable[[str], UNet2DConditionModel], kind: str, variant: VariantName
) -> None:
    unet = find_unet(kind)
    former = attach(unet)
    try:
        adapter = _new(unet, variant)
        # A LoRA starts as up(down(x)) with `up` zero, so `down` has to wait until `up` has moved: one step.
        waiting = {name for name, _ in adapter.named_parameters() if name.endswith("_lora.down.weight")}
        assert bool(waiting) == adapter.variant.has_lora
        assert _without_gradient(unet, adapter) == waiting
        _train(unet, adapter, steps=1)
        assert _without_gradient(unet, adapter) == set()
        assert all(p.grad is None for p in unet.parameters())
    finally:
        detach(unet, former)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(
    find_unet: Callable[[str], UNet2DConditionModel], kind: str, variant: VariantName, tmp_path: Path
) -> None:
    unet = find_unet(kind)
    weights = {key: value.clone() for key, value in unet.state_dict().items()}
    plain = _plain(unet)
    former = attach(unet)
    try:
        assert list(unet.state_dict()) == list(weights)
        adapter = _new(unet, variant)
        losses = _train(unet, adapter)
        assert losses[-1] < 0.92 * losses[0]
        assert list(unet.state_dict()) == list(weights)
        with torch.no_grad():
            trained = _predict(unet, adapter)
            save_adapter(adapter, tmp_path / "adapter.safetensors")
            again = load_adapter(tmp_path / "adapter.safetensors")
            assert again.variant == adapter.variant
            assert torch.equal(_predict(unet, again), trained)
    finally:
        detach(unet, former)
    assert unet.attn_processors == former
    assert list(unet.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())
    assert torch.equal(_plain(unet), plain)
    assert not torch.equal(trained, plain)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bfloat16_base_gives_a_float32_adapter_float32_gradients(
    tiny_base: FindBase, kind: str, variant: VariantName
) -> None:
    unet = load_base(str(tiny_base(kind)), precision="bfloat16").unet
    adapter = _new(unet, variant)
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    losses = _train(unet, adapter)
    assert losses[-1] < 0.92 * losses[0]
    assert _without_gradient(unet, adapter) == set()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None
        assert (parameter.dtype, parameter.grad.dtype) == (torch.float32, torch.float32), name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("variant", COUNTED)
@pytest.mark.parametrize("num_tokens", [1, 7, 23])
def test_any_number_of_tokens_trains_and_draws(
    tiny_base: FindBase, kind: str, variant: VariantName, num_tokens: int
) -> None:
    base = load_base(str(tiny_base(kind)))
    adapter = _new(base.unet, variant, num_tokens)
    losses = _train(base.unet, adapter, steps=10)
    assert min(losses) < losses[0]
    # The softmax over a single token is 1 whatever the token's key is.
    silent = {name for name, _ in adapter.named_parameters() if num_tokens == 1 and "to_k_ip" in name}
    assert {name for name in _without_gradient(base.unet, adapter) if "_ip." in name} <= silent
    adapter.eval().requires_grad_(False)
    features = _features(adapter)
    prompts = guided_image_prompts(adapter, ImageFeatures(features, tuple(torch.zeros_like(x[:1]) for x in features)))
    assert {prompt.conditional.num_tokens for prompt in prompts} == {num_tokens}
    asked = [Generation(prompt="a photo", seed=1, steps=2, image_prompts=(prompt,)) for prompt in prompts]
    plain = Generation(prompt="a photo", seed=1, steps=2)
    with_image, with_another, without = Engine(base).generate([*asked, plain])
    assert len({picture.tobytes() for picture in (with_image, with_another, without)}) == 3
