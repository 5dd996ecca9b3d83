"""How strongly each cross-attention layer listens to an image: presets by the names that users know.

Some layers decide composition, others style (InstantStyle, arXiv 2404.02733); the rest are the weight types of
ComfyUI_IPAdapter_plus. Transformers are counted in the order in which a UNet runs them: down, middle, up.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from diffusers import UNet2DConditionModel

from nigaoe.core.attention import cross_attention_layers
from nigaoe.core.errors import RequestError

Stage = Literal["down", "mid", "up"]

SD_TRANSFORMERS, SDXL_TRANSFORMERS = 16, 11

WEAK = 0.2
"""What is left of a stage that a preset weakens."""

WEAKENED: Mapping[str, tuple[Stage, ...]] = {
    "weak_input": ("down",),
    "weak_middle": ("mid",),
    "weak_output": ("up",),
    "strong_middle": ("down", "up"),
}
_SD_STYLE = {i: 1.0 for i in (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15)}
_SD_COMPOSITION = {4: 0.25, 5: 1.0}
CHOSEN: Mapping[str, Mapping[int, Mapping[int, float]]] = {
    "style": {SD_TRANSFORMERS: _SD_STYLE, SDXL_TRANSFORMERS: {6: 1.0}},
    "composition": {SD_TRANSFORMERS: _SD_COMPOSITION, SDXL_TRANSFORMERS: {3: 1.0}},
    "style_and_composition": {SD_TRANSFORMERS: _SD_STYLE | _SD_COMPOSITION, SDXL_TRANSFORMERS: {3: 1.0, 6: 1.0}},
    "strong_style": {
        SD_TRANSFORMERS: {i: 1.0 for i in range(16) if i not in (4, 5)},
        SDXL_TRANSFORMERS: {i: 1.0 for i in range(11) if i != 3},
    },
    "strong_style_and_composition": {
        SD_TRANSFORMERS: dict.fromkeys(range(16), 1.0),
        SDXL_TRANSFORMERS: dict.fromkeys(range(11), 1.0),
    },
    "style_precise": {SD_TRANSFORMERS: _SD_STYLE | _SD_COMPOSITION, SDXL_TRANSFORMERS: {3: 1.0, 6: 1.0}},
    "composition_precise": {
        SD_TRANSFORMERS: _SD_STYLE | _SD_COMPOSITION | dict.fromkeys((6, 7, 8), 0.1),
        SDXL_TRANSFORMERS: {**dict.fromkeys(range(11), 0.1), 3: 1.0, 6: 1.0},
    },
}
"""Factors by transformer, for a UNet of so many; those that are not named do not listen at all."""
_COMPOSING = {SD_TRANSFORMERS: {4, 5}, SDXL_TRANSFORMERS: {3}}
AVOIDED: Mapping[str, Mapping[int, frozenset[int]]] = {
    "style_precise": {count: frozenset(some) for count, some in _COMPOSING.items()},
    "composition_precise": {count: frozenset(set(range(count)) - some) for count, some in _COMPOSING.items()},
}
"""Transformers in which the image is what to avoid: it goes to the unconditional side, and nothing to the other."""
EASED = ("ease_in", "ease_out", "ease_in_out", "reverse_in_out")
PRESETS: tuple[str, ...] = ("linear", *EASED, *WEAKENED, *CHOSEN)


class LayerScales(NamedTuple):
    """How loudly an image speaks in every cross-attention layer, in the order of published files."""

    factors: tuple[float, ...]
    """By what the scale is multiplied."""
    swapped: frozenset[int] = frozenset()
    """Layers where it speaks on the unconditional side alone."""


class LayerPlace(NamedTuple):
    """Where a cross-attention layer stands."""

    stage: Stage
    transformer: int
    """Its transformer in running order; SDXL's have several layers each."""


def layer_places(unet: UNet2DConditionModel) -> tuple[LayerPlace, ...]:
    """Of every cross-attention layer, in the order of published files."""
    names = list(unet.attn_processors)
    owners = [names[index].split(".transformer_blocks.")[0] for index in cross_attention_layers(unet)]
    stages: list[Stage] = [_stage(owner) for owner in owners]
    running: list[str] = []
    for wanted in ("down", "mid", "up"):
        for owner, stage in zip(owners, stages, strict=True):
            if stage == wanted and owner not in running:
                running.append(owner)
    return tuple(LayerPlace(stage, running.index(owner)) for owner, stage in zip(owners, stages, strict=True))


def _stage(name: str) -> Stage:
    return "down" if name.startswith("down") else "mid" if name.startswith("mid") else "up"


def layer_scales(preset: str, places: Sequence[LayerPlace]) -> LayerScales:
    """What a preset does to each cross-attention layer.

    Raises:
        RequestError: No such preset, or none for a UNet of so many transformers.
    """
    count = max(place.transformer for place in places) + 1
    if preset == "linear":
        return LayerScales((1.0,) * len(places))
    if preset in WEAKENED:
        return LayerScales(tuple(WEAK if place.stage in WEAKENED[preset] else 1.0 for place in places))
    if preset in EASED:
        return LayerScales(tuple(_eased(preset, place.transformer / count) for place in places))
    if preset not in CHOSEN:
        raise RequestError(f"there is no layer preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if count not in CHOSEN[preset]:
        everywhere = ", ".join(name for name in PRESETS if name not in CHOSEN)
        raise RequestError(
            f"layer preset {preset!r} is for Stable Diffusion 1.x, 2.x and XL, and this base has {count} transformers; "
            f"give a factor for each layer or choose one of {everywhere}"
        )
    chosen, avoided = CHOSEN[preset][count], AVOIDED.get(preset, {}).get(count, frozenset())
    swapped = frozenset(i for i, place in enumerate(places) if place.transformer in avoided)
    return LayerScales(tuple(chosen.get(place.transformer, 0.0) for place in places), swapped)


def _eased(preset: str, x: float) -> float:
    """`x`: 0 at the first transformer, towards 1 at the last."""
    from_middle = abs(2 * x - 1)
    share = {"ease_in": 1 - x, "ease_out": x, "ease_in_out": 1 - from_middle, "reverse_in_out": from_middle}[preset]
    return 0.05 + 0.95 * share
