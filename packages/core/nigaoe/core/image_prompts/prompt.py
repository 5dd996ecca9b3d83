"""What an image prompt can say, folded into keys and values: several pictures, scales of every kind, windows, masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.attention import ImagePrompt
from nigaoe.core.engine.rows import GuidedImagePrompt
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_prompts.features import ImageFeatures, Merge, merged_features, picture_weights
from nigaoe.core.image_prompts.layer_scales import LayerScales

Combination = Literal["concat", Merge]
"""`concat`: the tokens of all pictures stand side by side; the others make one picture's features of them."""
ScaledSides = Literal["v", "k_v", "k_v_c", "k_mean_v_c"]
"""What a scale multiplies, as ComfyUI's `embeds_scaling` names it: V only; K and V; the same with the scale times C /
1280, so that narrow layers hear less; K and the mean of V over the tokens, with that scale."""

COMBINATIONS: tuple[str, ...] = ("concat", *get_args(Merge))

SCALES = (-1.0, 5.0)
"""Bounds of a scale, a weight and a layer's factor: beyond them pictures fall apart with every published adapter."""


@dataclass(frozen=True, kw_only=True)
class PromptScales:
    """How loudly an image prompt speaks, where and when. All of it is the request's own."""

    scale: float = 1.0
    layers: LayerScales | None = None
    """By what each layer multiplies the scale, as `layer_scales` gives it; None: all alike."""
    sides: ScaledSides = "v"
    combination: Combination = "concat"
    weights: tuple[float, ...] | None = None
    """Of each picture: of its values where tokens are concatenated, else of its features."""
    start: float = 0.0
    """Share of the run, in [0, 1], before which it is silent."""
    end: float = 1.0
    shortcut_scale: float = 1.0
    """FaceID-Plus v2: how much of the face's CLIP features is added to its identity."""
    lora_scale: float = 1.0
    """FaceID: how much of its LoRA. Where several prompts of a row bring the same LoRA, that of the last one holds."""

    def __post_init__(self) -> None:
        """Refuse choices that do not exist; take lists for tuples.

        Raises:
            AdapterError: An unknown combination or side, layers of another kind, or no window.
        """
        for name, choices in (("combination", COMBINATIONS), ("sides", get_args(ScaledSides))):
            if getattr(self, name) not in choices:
                raise AdapterError(f"there is no {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if self.layers is not None and not isinstance(self.layers, LayerScales):
            raise AdapterError(
                f"layers is {self.layers!r}; give `layer_scales(preset, layer_places(unet))` or `LayerScales(factors)`"
            )
        if not 0 <= self.start < self.end <= 1:
            raise AdapterError(
                f"start {self.start:g} and end {self.end:g} are no window in [0, 1]; choose start below end"
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
        if self.layers is not None:
            tuples = LayerScales(tuple(self.layers.factors), frozenset(self.layers.swapped))
            object.__setattr__(self, "layers", tuples)


@torch.no_grad()
def guided_image_prompt(
    adapter: IPAdapter, features: ImageFeatures, scales: PromptScales = PromptScales(), mask: Tensor | None = None
) -> GuidedImagePrompt:
    """One prompt of all pictures; `mask`: where it applies, float32 [H, W] in [0, 1].

    Raises:
        AdapterError: A scale outside its range, not one weight per picture, or factors for another number of layers.
    """
    _check(adapter, scales)
    features = features._replace(**{side: _on(adapter, getattr(features, side)) for side in features._fields})
    weights = scales.weights
    if scales.combination != "concat":
        features, weights = merged_features(features, scales.combination, weights), None
    conditional = _concatenated(
        _encode(adapter, features.conditional, scales),
        None if weights is None else picture_weights(features.num_pictures, weights),
    )
    nothing = _encode(adapter, features.unconditional, scales)
    if scales.layers is not None and scales.layers.swapped:
        # All layers of a side have one number of tokens, and some of them get the conditional ones. Copies change
        # nothing: attention is a mean.
        nothing = _repeated(nothing, features.num_pictures)
    unconditional = _concatenated(nothing)
    return _scaled(conditional, unconditional, scales)._replace(start=scales.start, end=scales.end, mask=mask)


def guided_image_prompts(adapter: IPAdapter, features: ImageFeatures, scale: float = 1.0) -> list[GuidedImagePrompt]:
    """One prompt per picture."""
    count = features.num_pictures

    def of(i: int, side: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x if len(x) == 1 else x[i : i + 1] for x in side)

    one_by_one = [ImageFeatures(of(i, features.conditional), of(i, features.unconditional)) for i in range(count)]
    return [guided_image_prompt(adapter, one, PromptScales(scale=scale)) for one in one_by_one]


def _check(adapter: IPAdapter, scales: PromptScales) -> None:
    low, high = SCALES
    numbers = {name: getattr(scales, name) for name in ("scale", "shortcut_scale", "lora_scale")}
    numbers |= {f"weight of picture {i + 1}:": weight for i, weight in enumerate(scales.weights or ())}
    numbers |= {
        f"factor of layer {i + 1}:": factor for i, factor in enumerate(scales.layers.factors if scales.layers else ())
    }
    for name, value in numbers.items():
        if not (math.isfinite(value) and low <= value <= high):
            raise AdapterError(f"{name} {value:g} is outside [{low:g}, {high:g}]; choose a number between")
    layers = len(adapter.cross_layers)
    if scales.layers is not None and len(scales.layers.factors) != layers:
        raise AdapterError(
            f"{len(scales.layers.factors)} layer factors were given for an adapter of {layers} layers; give one each"
        )
    if scales.layers is not None and not scales.layers.swapped <= set(range(layers)):
        raise AdapterError(
            f"layers {sorted(scales.layers.swapped)} were to be swapped of an adapter that has 0 to {layers - 1}; "
            "choose among those"
        )


def _on(adapter: IPAdapter, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight = next(adapter.parameters())
    return tuple(x.to(weight.device, weight.dtype) for x in features)


def _encode(adapter: IPAdapter, features: tuple[Tensor, ...], scales: PromptScales) -> ImagePrompt:
    settings = {"shortcut_scale": scales.shortcut_scale} if adapter.variant.has_shortcut else {}
    prompt: ImagePrompt = adapter(*features, **settings)
    return _lora_scaled(prompt, scales.lora_scale)


def with_loras(prompt: GuidedImagePrompt, adapter: IPAdapter, scales: PromptScales) -> GuidedImagePrompt:
    """The prompt with the LoRA of its adapter, if that has one."""
    loras = adapter.loras()
    conditional, unconditional = (side._replace(loras=loras) for side in (prompt.conditional, prompt.unconditional))
    return prompt._replace(
        conditional=_lora_scaled(conditional, scales.lora_scale),
        unconditional=_lora_scaled(unconditional, scales.lora_scale),
    )


def _lora_scaled(prompt: ImagePrompt, scale: float) -> ImagePrompt:
    return prompt._replace(loras=tuple(lora._replace(scale=scale) for lora in prompt.loras))


def _concatenated(prompt: ImagePrompt, weights: Sequence[float] | None = None) -> ImagePrompt:
    """Tokens of B pictures [B, M, C] side by side, [1, B * M, C]."""
    if weights is not None:
        prompt = prompt.scaled(prompt.values[0].new_tensor(weights))
    keys, values = (tuple(x.flatten(0, 1)[None] for x in side) for side in (prompt.keys, prompt.values))
    return prompt._replace(keys=keys, values=values)


def _repeated(prompt: ImagePrompt, count: int) -> ImagePrompt:
    """One picture's prompt as that of `count` equal ones; that of several is left as it is."""
    if len(prompt.keys[0]) == count:
        return prompt
    keys, values = (tuple(x.expand(count, -1, -1) for x in side) for side in (prompt.keys, prompt.values))
    return prompt._replace(keys=keys, values=values)


def _scaled(conditional: ImagePrompt, unconditional: ImagePrompt, scales: PromptScales) -> GuidedImagePrompt:
    count = len(conditional.keys)
    layers = scales.layers or LayerScales((1.0,) * count)
    pairs: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for i in range(count):
        sources = [(prompt.keys[i], prompt.values[i]) for prompt in (conditional, unconditional)]
        if i in layers.swapped:
            k, v = sources[0]
            # ComfyUI's "precise" kinds: what the image says in these layers is to be avoided, and nothing put for it.
            sources = [(torch.zeros_like(k), torch.zeros_like(v)), (k, v)]
        for pair, (k, v) in zip(pairs, sources, strict=True):
            pair.append(_scaled_sides(k, v, scales.scale * layers.factors[i], scales.sides))
    sides = [tuple(zip(*pair, strict=True)) for pair in pairs]
    return GuidedImagePrompt(
        conditional._replace(keys=sides[0][0], values=sides[0][1]),
        unconditional._replace(keys=sides[1][0], values=sides[1][1]),
    )


def _scaled_sides(k: Tensor, v: Tensor, scale: float, sides: ScaledSides) -> tuple[Tensor, Tensor]:
    if scale == 0:
        # Exactly nothing; what `k_mean_v_c` leaves of V averages to nothing but for rounding.
        return k, torch.zeros_like(v)
    if sides == "v":
        return k, v * scale
    if sides == "k_v":
        return k * scale, v * scale
    penalised = scale * k.shape[-1] / 1280
    if sides == "k_v_c":
        return k * penalised, v * penalised
    mean = v.mean(dim=1, keepdim=True)
    return k * penalised, v - mean + mean * penalised
