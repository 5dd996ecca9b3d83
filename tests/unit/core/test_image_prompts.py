"""What an image prompt says, against formulas written out a second time: the attention of one head after another."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.attention import AttentionLora, ImagePrompt, LowRank, cross_attention_layers
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.engine.slots import stack_image_prompts
from nigaoe.core.engine.validation import regions
from nigaoe.core.errors import RequestError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.features import ImageFeatures, Merge, embedding_features, image_features, merged_features
from nigaoe.core.image_prompts.layer_scales import LayerScales
from nigaoe.core.image_prompts.prompt import SCALES, PromptScales, ScaledSides, guided_image_prompt
from tiny_worlds import SIDE_PX

EMBED, IDENTITY, TOKENS = 12, 8, 4
LAYERS = 4
"""Of cross-attention in the tiny base."""
SIDES: tuple[ScaledSides, ...] = ("v", "k_v", "k_v_c", "k_mean_v_c")
SCALE = st.floats(*SCALES)
# A busy machine is slow, and not wrong.
SETTINGS = settings(deadline=None, max_examples=50)


@pytest.fixture(scope="module")
def tiny(tiny_base: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_base("sd")))


def _adapter(base: Base, variant: str = "base", seed: int = 0, **widths: int) -> IPAdapter:
    torch.manual_seed(seed)
    features: dict[Feature, int] = {"image_embeds": EMBED, "hidden_states": EMBED, "identity": IDENTITY}
    features |= widths  # type: ignore[arg-type]
    adapter = IPAdapter.for_unet(base.unet, variant, features=features, lora_rank=2).eval().requires_grad_(False)
    for parameter in adapter.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter


@pytest.fixture(scope="module")
def adapter(tiny: Base) -> IPAdapter:
    return _adapter(tiny)


@pytest.fixture(scope="module")
def faceid(tiny: Base) -> IPAdapter:
    return _adapter(tiny, "faceid")


@pytest.fixture(scope="module")
def plusv2(tiny: Base) -> IPAdapter:
    return _adapter(tiny, "faceid-plusv2")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _features(pictures: int, seed: int = 0) -> ImageFeatures:
    return embedding_features(_random(pictures, EMBED, seed=seed))


def _identity(seed: int = 0) -> ImageFeatures:
    return ImageFeatures((_random(1, IDENTITY, seed=seed),), (torch.zeros(1, IDENTITY),))


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head: [N, D] over [T, D]."""
    q, k, v = q.double(), k.double(), v.double()
    weights = torch.exp(q @ k.T / q.shape[1] ** 0.5)
    return (weights / weights.sum(1, keepdim=True)) @ v


def _queries(width: int) -> Tensor:
    return _random(5, width, seed=1)


def _seen(prompt: ImagePrompt, layer: int) -> Tensor:
    """What queries get of a prompt of one row in a layer."""
    keys, values = prompt.keys[layer][0], prompt.values[layer][0]
    if prompt.mask is not None:
        keys, values = keys[prompt.mask[0]], values[prompt.mask[0]]
    return _attention(_queries(keys.shape[1]), keys, values)


def _keys_values(adapter: IPAdapter, features: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Per layer, of the tokens of all pictures side by side: [T, C]."""
    tokens = adapter.image_proj(features).flatten(0, 1)
    return [(tokens @ x.to_k_ip.weight.T, tokens @ x.to_v_ip.weight.T) for x in adapter.cross_layers.values()]


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)


def _as_comfyui(sides: ScaledSides, weight: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The image branch of ComfyUI_IPAdapter_plus by its `embeds_scaling`."""
    if sides == "v":
        return _attention(q, k, v) * weight
    if sides == "k_v":
        return _attention(q, k * weight, v * weight)
    weight = weight * k.shape[1] / 1280
    if sides == "k_v_c":
        return _attention(q, k * weight, v * weight)
    mean = v.mean(0, keepdim=True)
    return _attention(q, k * weight, (v - mean) + mean * weight)


@SETTINGS
@given(scale=SCALE, factors=st.lists(st.floats(0, 1), min_size=LAYERS, max_size=LAYERS), sides=st.sampled_from(SIDES))
def test_scales_are_those_of_comfyui(
    adapter: IPAdapter, scale: float, factors: list[float], sides: ScaledSides
) -> None:
    features = _features(2)
    scales = PromptScales(scale=scale, sides=sides, layers=LayerScales(tuple(factors)))
    prompt = guided_image_prompt(adapter, features, scales)
    for side, given_features in (
        (prompt.conditional, features.conditional),
        (prompt.unconditional, features.unconditional),
    ):
        for i, (k, v) in enumerate(_keys_values(adapter, given_features[0])):
            weight = scale * factors[i]
            _close(_seen(side, i), _as_comfyui(sides, weight, _queries(k.shape[1]), k, v))


@SETTINGS
@given(pictures=st.integers(1, 3), swapped=st.frozensets(st.integers(0, LAYERS - 1)), sides=st.sampled_from(SIDES))
def test_precise_presets_put_the_image_on_the_other_side(
    adapter: IPAdapter, pictures: int, swapped: frozenset[int], sides: ScaledSides
) -> None:
    """In swapped layers: nothing for the conditional side, the pictures, all of them, for the unconditional one."""
    features, factors = _features(pictures), (1.0, 0.5, 0.7, 1.0)
    scales = PromptScales(scale=0.8, sides=sides, layers=LayerScales(factors, swapped))
    guided = guided_image_prompt(adapter, features, scales)
    # Beside another row, as in a call of the engine.
    other = guided_image_prompt(adapter, _features(4)).conditional
    (stacked,) = stack_image_prompts([[guided.unconditional], [guided.conditional], [other]])
    of_pictures = _keys_values(adapter, features.conditional[0])
    of_none = _keys_values(adapter, features.unconditional[0])
    for i, factor in enumerate(factors):
        q = _queries(stacked.keys[i].shape[2])
        avoided, wanted = (_seen(_row(stacked, row), i) for row in (0, 1))
        in_place = of_pictures if i in swapped else of_none
        _close(avoided, _as_comfyui(sides, 0.8 * factor, q, *in_place[i]))
        if i in swapped:
            assert not wanted.any()
        else:
            _close(wanted, _as_comfyui(sides, 0.8 * factor, q, *of_pictures[i]))


def _row(stacked: ImagePrompt, row: int) -> ImagePrompt:
    return stacked._replace(loras=()).rows(row, row + 1)


@SETTINGS
@given(weights=st.lists(SCALE, min_size=2, max_size=3))
def test_a_weight_is_of_the_values_of_its_picture(adapter: IPAdapter, weights: list[float]) -> None:
    features = _features(len(weights))
    prompt = guided_image_prompt(adapter, features, PromptScales(scale=0.6, weights=tuple(weights)))
    each = torch.tensor(weights).repeat_interleave(TOKENS)[:, None]
    for i, (k, v) in enumerate(_keys_values(adapter, features.conditional[0])):
        _close(_seen(prompt.conditional, i), 0.6 * _attention(_queries(k.shape[1]), k, v * each))
    plain = guided_image_prompt(adapter, features, PromptScales(scale=0.6))
    assert all(torch.equal(a, b) for a, b in zip(prompt.unconditional.values, plain.unconditional.values, strict=True))


def _merge_by_hand(x: np.ndarray, how: Merge, w: np.ndarray) -> np.ndarray:
    """Rows [B, D] as one; w: [B]."""
    if how == "add":
        return np.asarray(w @ x)
    if how == "subtract":
        others = [weight * row for weight, row in zip(w[1:], x[1:], strict=True)]
        return np.asarray(w[0] * x[0] - (sum(others) / len(others) if others else 0))
    w = w / w.sum()
    if how == "average":
        return np.asarray(w @ x)
    lengths = np.sqrt((x**2).sum(1))
    return np.asarray((w @ (x / lengths[:, None])) * (w @ lengths))


@SETTINGS
@given(
    how=st.sampled_from(["average", "norm_average", "add", "subtract"]),
    weights=st.lists(st.floats(0.1, 5), min_size=1, max_size=4),
    are_given=st.booleans(),
)
def test_merged_pictures_are_read_as_one(adapter: IPAdapter, how: Merge, weights: list[float], are_given: bool) -> None:
    features = _features(len(weights))
    told = tuple(weights) if are_given else None
    merged = _merge_by_hand(features.conditional[0].double().numpy(), how, np.array(told or [1.0] * len(weights)))
    (ours,) = merged_features(features, how, told).conditional
    _close(ours[0], torch.from_numpy(merged))
    prompt = guided_image_prompt(adapter, features, PromptScales(combination=how, weights=told))
    one = guided_image_prompt(adapter, embedding_features(ours))
    for a, b in zip(
        prompt.conditional.values + prompt.unconditional.keys,
        one.conditional.values + one.unconditional.keys,
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_normalised_average_of_states_goes_patch_by_patch() -> None:
    states = _random(2, 3, EMBED)
    features = ImageFeatures((states,), (torch.zeros(1, 3, EMBED),))
    (merged,) = merged_features(features, "norm_average").conditional
    for patch in range(3):
        by_hand = _merge_by_hand(states[:, patch].double().numpy(), "norm_average", np.ones(2))
        _close(merged[0, patch], torch.from_numpy(by_hand))


@SETTINGS
@given(pictures=st.integers(2, 4), how=st.sampled_from(["average", "norm_average"]))
def test_a_mean_of_one_picture_is_that_picture(pictures: int, how: Merge) -> None:
    one = _features(1)
    copies = ImageFeatures((one.conditional[0].expand(pictures, -1),), one.unconditional)
    torch.testing.assert_close(merged_features(copies, how).conditional, one.conditional)


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


@pytest.mark.parametrize("variant", ["base", "plus"])
def test_a_negative_picture_takes_the_place_of_none(tiny: Base, encoder: ImageEncoder, variant: str) -> None:
    adapter = _adapter(tiny, variant, image_embeds=encoder.embed_dim, hidden_states=encoder.hidden_dim)
    prompt = guided_image_prompt(adapter, image_features(adapter, encoder, [_picture(1)], negative=_picture(2)))
    plain = guided_image_prompt(adapter, image_features(adapter, encoder, [_picture(1)]))
    negative = guided_image_prompt(adapter, image_features(adapter, encoder, [_picture(2)]))
    torch.testing.assert_close(prompt.conditional, plain.conditional)
    torch.testing.assert_close(prompt.unconditional, negative.conditional)
    assert (prompt.unconditional.values[0] - plain.unconditional.values[0]).abs().max() > 1e-2


@SETTINGS
@given(shortcut=SCALE)
def test_the_shortcut_adds_so_much_of_the_face(plusv2: IPAdapter, shortcut: float) -> None:
    adapter = plusv2
    features = ImageFeatures(
        (_random(1, IDENTITY), _random(1, 9, EMBED)), (torch.zeros(1, IDENTITY), _random(1, 9, EMBED))
    )
    prompt = guided_image_prompt(adapter, features, PromptScales(shortcut_scale=shortcut)).conditional
    projection: Any = adapter.image_proj
    tokens = projection.norm(projection.proj(features.conditional[0]).view(1, TOKENS, -1))
    seen = projection.perceiver_resampler.refine(tokens, features.conditional[1])
    layer = adapter.layer(1)
    _close(prompt.keys[0], (tokens + shortcut * seen) @ layer.to_k_ip.weight.T)
    assert seen.abs().max() > 1e-2


def _latents(base: Base, *prompts: GuidedImagePrompt, steps: int = 1, of: int = 4) -> Tensor:
    """After so many steps of a run of `of`."""
    engine = Engine(base)
    engine.submit(Generation(prompt="a photo", seed=1, steps=of, guidance_scale=4.0, image_prompts=prompts))
    (row,) = engine._active
    for _ in range(steps):
        assert not engine.step().failures
    return row.latents


def _matters(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-3)


@pytest.mark.parametrize("sides", SIDES)
def test_scale_zero_is_no_image_prompt(tiny: Base, adapter: IPAdapter, sides: ScaledSides) -> None:
    loud, silent = (
        guided_image_prompt(adapter, _features(1), PromptScales(scale=scale, sides=sides)) for scale in (1.0, 0.0)
    )
    assert torch.equal(_latents(tiny, silent), _latents(tiny))
    assert _matters(_latents(tiny, loud), _latents(tiny))


def _stripped(prompt: GuidedImagePrompt) -> GuidedImagePrompt:
    return prompt._replace(
        conditional=prompt.conditional._replace(loras=()), unconditional=prompt.unconditional._replace(loras=())
    )


def _as_strong(prompt: ImagePrompt, scale: float) -> ImagePrompt:
    """With the LoRA's own weights scaled, in place of its scale."""
    (lora,) = prompt.loras
    layers = tuple({target: LowRank(down, up * scale) for target, (down, up) in layer.items()} for layer in lora.layers)
    return prompt._replace(loras=(AttentionLora(layers),))


def test_a_lora_is_as_strong_as_told(tiny: Base, faceid: IPAdapter) -> None:
    none, half, whole = (
        guided_image_prompt(faceid, _identity(), PromptScales(lora_scale=scale)) for scale in (0.0, 0.5, 1.0)
    )
    assert torch.equal(_latents(tiny, none), _latents(tiny, _stripped(whole)))
    by_hand = GuidedImagePrompt(_as_strong(whole.conditional, 0.5), _as_strong(whole.unconditional, 0.5))
    _close(_latents(tiny, half), _latents(tiny, by_hand))
    assert _matters(_latents(tiny, half), _latents(tiny, none))
    assert _matters(_latents(tiny, half), _latents(tiny, whole))


def test_a_face_adapter_twice_on_a_row_brings_its_lora_once(tiny: Base, faceid: IPAdapter) -> None:
    prompt = guided_image_prompt(faceid, _identity())
    silent = guided_image_prompt(faceid, _identity(2), PromptScales(scale=0.0))
    once = _latents(tiny, prompt)
    torch.testing.assert_close(_latents(tiny, prompt, silent), once)
    torch.testing.assert_close(_latents(tiny, silent, prompt), once)
    another = guided_image_prompt(_adapter(tiny, "faceid", seed=5), _identity(2), PromptScales(scale=0.0))
    assert _matters(_latents(tiny, prompt, another), once), "one of other weights comes beside it"


@SETTINGS
@given(bounds=st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda bounds: bounds[0] < bounds[1]))
def test_a_window_is_of_the_steps_that_lie_in_it(tiny: Base, adapter: IPAdapter, bounds: tuple[int, int]) -> None:
    start, end = (bound / 8 for bound in bounds)
    prompt = guided_image_prompt(adapter, _features(1), PromptScales(start=start, end=end))
    engine = Engine(tiny)
    generation = Generation(prompt="", steps=4, image_prompts=(prompt,))
    # Whole steps: one that a bound cuts through is silent.
    expected = [start <= step / 4 and (step + 1) / 4 <= end for step in range(4)]
    if not any(expected):
        with pytest.raises(RequestError, match="hold no whole step of 4, so the image prompt would be silent; widen"):
            engine.submit(generation)
        return
    engine.submit(generation)
    (row,) = engine._active
    spoke = []
    while not row.is_done:
        spoke.append(row.active_prompts == (0,))
        row.position += 1
    assert spoke == expected


def test_outside_its_window_a_prompt_changes_nothing(tiny: Base, adapter: IPAdapter) -> None:
    prompt = guided_image_prompt(adapter, _features(1), PromptScales(start=0.5, end=0.75))
    for steps in (1, 2):
        assert torch.equal(_latents(tiny, prompt, steps=steps), _latents(tiny, steps=steps))
    assert _matters(_latents(tiny, prompt, steps=3), _latents(tiny, steps=3))
    always = prompt._replace(start=0.0, end=1.0)
    assert _matters(_latents(tiny, prompt, steps=3), _latents(tiny, always, steps=3))


def _soft_mask(seed: int, height: int = SIDE_PX, width: int = SIDE_PX) -> Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("width", "height"), [(32, 32), (48, 16)])
def test_a_query_gets_the_mean_of_the_mask_over_its_pixels(tiny: Base, width: int, height: int) -> None:
    mask = _soft_mask(0, height, width)
    levels = regions(tiny, mask, (width, height))
    assert levels is not None
    assert sorted(levels) == sorted((width // side) * (height // side) for side in (4, 8))
    for side in (4, 8):
        columns = width // side
        level = levels[columns * (height // side)]
        for query, share in enumerate(level[0, :, 0].tolist()):
            top, left = query // columns * side, query % columns * side
            assert share == pytest.approx(mask[top : top + side, left : left + side].mean().item(), abs=1e-6)
    assert regions(tiny, None, (width, height)) is None


def _layer_by_hand(attn: Any, x: Tensor, text: Tensor, prompts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """One cross-attention layer of one row, head after head; prompts: (keys, values, share of each query)."""
    q, k, v = attn.to_q(x), attn.to_k(text), attn.to_v(text)
    heads = []
    for head in torch.arange(q.shape[1]).view(attn.heads, -1):
        out = _attention(q[:, head], k[:, head], v[:, head])
        for keys, values, share in prompts:
            out = out + share[:, None] * _attention(q[:, head], keys[:, head], values[:, head])
        heads.append(out)
    return attn.to_out[0](torch.cat(heads, 1).float())  # type: ignore[no-any-return]


def test_every_prompt_of_every_row_has_its_own_mask(tiny: Base, adapter: IPAdapter) -> None:
    """Three rows in one call: two masked prompts of different lengths, an unmasked one, none."""
    long, short = (guided_image_prompt(adapter, _features(n, seed=n)).conditional for n in (3, 1))
    masks = [regions(tiny, _soft_mask(seed), (SIDE_PX, SIDE_PX)) for seed in (0, 1)]
    rows = [[long._replace(regions=masks[0]), short._replace(regions=masks[1])], [short], []]
    attn: Any = next(iter(cross_attention_layers(tiny.unet).values()))
    queries = (SIDE_PX // 4) ** 2
    x, text = _random(3, queries, attn.to_q.in_features, seed=2), _random(3, 7, attn.to_k.in_features, seed=3)
    with torch.no_grad():
        ours = attn(x, encoder_hidden_states=text, image_prompts=stack_image_prompts(rows))
        for i, prompts in enumerate(rows):
            shares = [torch.ones(queries) if p.regions is None else p.regions[queries][0, :, 0] for p in prompts]
            parts = [(p.keys[0][0], p.values[0][0], share) for p, share in zip(prompts, shares, strict=True)]
            _close(ours[i], _layer_by_hand(attn, x[i], text[i], parts))
            if prompts:
                assert _matters(ours[i], _layer_by_hand(attn, x[i], text[i], []))


def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_no_prompt(tiny: Base, adapter: IPAdapter) -> None:
    prompt = guided_image_prompt(adapter, _features(1))
    everywhere, nowhere = (torch.full((SIDE_PX, SIDE_PX), value) for value in (1.0, 0.0))
    assert torch.equal(_latents(tiny, prompt._replace(mask=everywhere)), _latents(tiny, prompt))
    assert torch.equal(_latents(tiny, prompt._replace(mask=nowhere)), _latents(tiny))


def test_complementary_masks_of_one_prompt_make_it_whole(tiny: Base, adapter: IPAdapter) -> None:
    prompt, mask = guided_image_prompt(adapter, _features(1)), _soft_mask(0)
    halves = prompt._replace(mask=mask), prompt._replace(mask=1 - mask)
    torch.testing.assert_close(_latents(tiny, *halves), _latents(tiny, prompt), rtol=1e-4, atol=1e-4)
    assert _matters(_latents(tiny, halves[0]), _latents(tiny, prompt))


def test_masks_look_where_they_say(tiny: Base, adapter: IPAdapter) -> None:
    """In a layer, queries under black see the text alone."""
    mask = torch.zeros(SIDE_PX, SIDE_PX)
    mask[:, : SIDE_PX // 2] = 1
    prompt = guided_image_prompt(adapter, _features(1)).conditional._replace(
        regions=regions(tiny, mask, (SIDE_PX, SIDE_PX))
    )
    attn: Any = next(iter(cross_attention_layers(tiny.unet).values()))
    side = SIDE_PX // 4
    x, text = _random(1, side * side, attn.to_q.in_features), _random(1, 7, attn.to_k.in_features, seed=3)
    with torch.no_grad():
        some, none = (
            attn(x, encoder_hidden_states=text, image_prompts=prompts)[0].view(side, side, -1)
            for prompts in ((prompt,), ())
        )
    assert torch.equal(some[:, side // 2 :], none[:, side // 2 :])
    assert (some - none)[:, : side // 2].abs().amax(-1).min() > 1e-4
