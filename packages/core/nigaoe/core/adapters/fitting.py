"""Whether an adapter fits a base: widths against widths, no weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from nigaoe.core.adapter_names import LoraTarget
from nigaoe.core.attention import attention_layers, cross_attention_layers, projection_widths
from nigaoe.core.base_parts import read_unet_config
from nigaoe.core.errors import AdapterError
from nigaoe.core.manifests import AdapterOutline

_CURE = "use an adapter trained on a base of this architecture"


class AttentionOutline(NamedTuple):
    """Attention layers of a UNet."""

    context_width: int
    """Of the text."""
    projections: tuple[dict[LoraTarget, tuple[int, int]], ...]
    """(in, out) of every layer, by published index."""
    cross: frozenset[int]
    """Indices of those that look at the text."""


def attention_outline(unet: UNet2DConditionModel) -> AttentionOutline:
    """What adapters have to fit in a UNet; without values (`meta`) will do."""
    cross = cross_attention_layers(unet)
    projections = tuple(projection_widths(attn) for attn in attention_layers(unet))
    return AttentionOutline(context_width(cross), projections, frozenset(cross))


@lru_cache(maxsize=16)
def read_attention_outline(base: str) -> AttentionOutline:
    """The same of a base by its name, from its settings alone.

    Raises:
        BaseModelError: It cannot be found.
    """
    config: dict[str, Any] = read_unet_config(base)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    return attention_outline(unet)


def context_width(cross: Mapping[int, Attention]) -> int:
    """Width of the text that cross-attention layers read."""
    return int(next(iter(cross.values())).to_k.in_features)


def require_fit(adapter: AdapterOutline, base: AttentionOutline) -> None:
    """Refuse an adapter for another UNet.

    Raises:
        AdapterError: Another number of layers or another width, with the first layer that differs.
    """
    ours = {index: layer.key_value for index, layer in adapter.layers.items() if layer.key_value is not None}
    theirs = {index: base.projections[index]["k"] for index in base.cross}
    if (len(ours), adapter.cross_attention_dim) != (len(theirs), base.context_width):
        raise AdapterError(
            f"the adapter has {len(ours)} layers for a text width of {adapter.cross_attention_dim}, the base has "
            f"{len(theirs)} for {base.context_width}; {_CURE}"
        )
    for index in sorted(ours.keys() | theirs.keys()):
        if ours.get(index) != theirs.get(index):
            here, there = (f"{w[0]} to {w[1]}" if w else "nothing" for w in (ours.get(index), theirs.get(index)))
            raise AdapterError(f"layer {index} of the adapter maps {here}, that of the base {there}; {_CURE}")
    for index, layer in sorted(adapter.layers.items()):
        known = base.projections[index] if index < len(base.projections) else {}
        for target, (inside, _, outside) in layer.lora.items():
            if known.get(target) != (inside, outside):
                widths = known.get(target)
                there = f"{widths[0]} to {widths[1]}" if widths else "nothing"
                raise AdapterError(
                    f"the adapter's LoRA of {target} in layer {index} maps {inside} to {outside}, the base's layer "
                    f"maps {there}; {_CURE}"
                )
