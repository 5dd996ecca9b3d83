"""Every published way to write an adapter down, brought to one flat layout: `image_proj.*` and `ip_adapter.N.*`.

- flat: the official `.safetensors`, and what `save_adapter` writes;
- nested: the official `.bin`, `{"image_proj": {...}, "ip_adapter": {...}}`;
- aliased: ComfyUI's `adapter_modules` for `ip_adapter`;
- raw: an accelerate checkpoint of the original trainer, the whole frozen UNet around `image_proj_model`. Its
  safetensors kind has no `adapter_modules`: shared tensors are written once, under the UNet's names, sorted by them.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

Layout = Literal["flat", "nested", "aliased", "raw"]

_ALIASES = {"adapter_modules.": "ip_adapter.", "image_proj_model.": "image_proj."}
_PROCESSOR = re.compile(
    r"^unet\.(?P<stage>down_blocks|up_blocks|mid_block)(?:\.(?P<block>\d+))?\.attentions\.(?P<attention>\d+)"
    r"\.transformer_blocks\.(?P<transformer>\d+)\.attn(?P<kind>[12])\.processor\.(?P<rest>.+)$"
)
# The order in which a UNet registers its blocks, and so numbers them.
_STAGES = ("down_blocks", "up_blocks", "mid_block")


def flatten_adapter(raw: Mapping[str, Any]) -> tuple[dict[str, Tensor], Layout]:
    """The flat state dict that a file says in its own way, and which way that was. Keys of no adapter are dropped."""
    layout: Layout = "flat"
    if isinstance(raw.get("image_proj"), Mapping) or isinstance(raw.get("ip_adapter"), Mapping):
        layout = "nested"
        raw = {f"{section}.{key}": value for section, part in raw.items() for key, value in _items(part)}
    named = _by_processor_name(raw)
    if named or any(key.startswith("unet.") for key in raw):
        layout = "raw"
    state: dict[str, Tensor] = {}
    for key, value in raw.items():
        for alias, prefix in _ALIASES.items():
            if key.startswith(alias):
                layout = "aliased" if layout == "flat" else layout
                key = prefix + key.removeprefix(alias)
        if key.startswith(("image_proj.", "ip_adapter.")) and isinstance(value, Tensor):
            state[key] = value
    if not any(key.startswith("ip_adapter.") for key in state):
        state |= named
    return state, layout


def _items(part: object) -> list[tuple[str, Any]]:
    return list(part.items()) if isinstance(part, Mapping) else []


def _by_processor_name(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights that are filed under the UNet's processors, by published index.

    Every transformer block has two attention layers, so the k-th block of the UNet owns indices 2k and 2k + 1.
    """
    found: dict[tuple[int, int, int, int], list[tuple[int, str, Tensor]]] = {}
    for key, value in raw.items():
        match = _PROCESSOR.match(key)
        if match and isinstance(value, Tensor):
            block = int(match["block"] or 0)
            place = _STAGES.index(match["stage"]), block, int(match["attention"]), int(match["transformer"])
            found.setdefault(place, []).append((int(match["kind"]) - 1, match["rest"], value))
    return {
        f"ip_adapter.{2 * position + kind}.{rest}": value
        for position, place in enumerate(sorted(found))
        for kind, rest, value in found[place]
    }


def nest_adapter(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The official `.bin` layout of a flat state dict."""
    nested: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        section, _, rest = key.partition(".")
        nested[section][rest] = value
    return nested
