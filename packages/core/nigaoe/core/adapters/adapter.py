"""An IP-Adapter of any variant: its projection of an image to tokens, and keys and values for every cross-attention.

Module names are the published checkpoint keys, so a file is `state_dict()` and nothing else:
`image_proj.proj.weight`, `ip_adapter.1.to_k_ip.weight`, `ip_adapter.0.to_q_lora.down.weight`, ...
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from nigaoe.core.adapters.fitting import attention_outline, context_width, require_fit
from nigaoe.core.adapters.resampler import DIM_HEAD
from nigaoe.core.adapters.variants import IDENTITY_DIM, Feature, Variant, Widths, stored_shape, variant_named, widths_of
from nigaoe.core.attention import (
    AttentionLora,
    ImagePrompt,
    LoraTarget,
    LowRank,
    attention_layers,
    cross_attention_layers,
    projection_widths,
)
from nigaoe.core.errors import AdapterError
from nigaoe.core.manifests import AdapterOutline, LayerOutline

LORA_RANK = 128
"""Of the published FaceID adapters."""

_TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)
# No UNet has so many attention layers that an index has five digits.
_LAYER = re.compile(r"ip_adapter\.(0|[1-9][0-9]{0,3})\.")


@dataclass(frozen=True)
class LayerWidths:
    """Weights that an adapter has for one attention layer."""

    key_value: tuple[int, int] | None = None
    """(in, out) of `to_k_ip` and `to_v_ip`; None where the layer is self-attention."""
    lora: dict[LoraTarget, tuple[int, int, int]] = field(default_factory=dict)
    """(in, rank, out) by the projection that it adds to."""


class Lora(nn.Module):
    """A low-rank addition to one linear layer; it starts as nothing, as published."""

    def __init__(self, in_features: int, rank: int, out_features: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)


class AdapterLayer(nn.Module):
    """What an adapter adds to one attention layer: `to_k_ip`, `to_v_ip`, and for FaceID `to_q_lora` and so on."""

    def __init__(self, widths: LayerWidths) -> None:
        super().__init__()
        self.loras: dict[LoraTarget, Lora] = {}
        for target, (inside, rank, outside) in widths.lora.items():
            self.loras[target] = Lora(inside, rank, outside)
            self.add_module(f"to_{target}_lora", self.loras[target])
        if widths.key_value is not None:
            self.to_k_ip = nn.Linear(*widths.key_value, bias=False)
            self.to_v_ip = nn.Linear(*widths.key_value, bias=False)

    @property
    def is_cross(self) -> bool:
        """Whether the layer attends to image tokens."""
        return hasattr(self, "to_k_ip")


class IPAdapter(nn.Module):
    """All trainable weights of an adapter and none of the UNet's."""

    def __init__(self, variant: Variant, widths: Widths, layers: Mapping[int, LayerWidths]) -> None:
        """`layers`: by published index, in ascending order; layers without weights may be left out."""
        super().__init__()
        self.variant, self.widths = variant, widths
        self.image_proj = variant.project(widths)
        self.ip_adapter = nn.ModuleDict({str(index): AdapterLayer(layer) for index, layer in layers.items()})

    @classmethod
    def for_unet(
        cls,
        unet: UNet2DConditionModel,
        variant: str = "base",
        *,
        features: Mapping[Feature, int],
        num_tokens: int | None = None,
        lora_rank: int = LORA_RANK,
    ) -> "IPAdapter":
        """An untrained adapter of a UNet, initialised as published: keys and values start as copies of the text ones.

        Args:
            unet: Widths are read off its modules.
            variant: A name of `VARIANTS` or of a published file.
            features: Width of each feature that the variant reads; identities are 512 wide if not given.
            num_tokens: Image tokens per picture; as published if not given.
            lora_rank: Of the variants that have a LoRA.

        Raises:
            AdapterError: No such variant, or a width that it needs is missing.
        """
        kind = variant_named(variant)
        known: dict[Feature, int] = {"identity": IDENTITY_DIM, **features}
        for name in kind.inputs:
            if name not in known:
                raise AdapterError(f"variant {variant!r} reads {name}, whose width was not given; add it to `features`")
        cross, every = cross_attention_layers(unet), attention_layers(unet)
        width = context_width(cross)
        # Published: as wide as the text with 12 heads for SD 1.x and 2.x; 1280 with 20 for SDXL (text of 2048).
        dim, most_heads = (1280, 20) if width > 1024 else (width, 12)
        widths = Widths(
            cross_attention_dim=width,
            features={name: known[name] for name in kind.inputs},
            num_tokens=kind.num_tokens if num_tokens is None else num_tokens,
            resampler_dim=dim,
            resampler_heads=max(1, min(most_heads, dim // DIM_HEAD)),
        )
        rank = lora_rank if kind.has_lora else 0
        layers = {i: _layer_widths(attn, rank) for i, attn in enumerate(every) if rank or i in cross}
        adapter = cls(kind, widths, layers)
        with torch.no_grad():
            for index, attn in cross.items():
                layer = adapter.layer(index)
                layer.to_k_ip.weight.copy_(attn.to_k.weight)
                layer.to_v_ip.weight.copy_(attn.to_v.weight)
        return adapter

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], variant: Variant, where: str) -> "IPAdapter":
        """An adapter of the shapes of a flat state dict, with those weights; `where`: how messages name their origin.

        Raises:
            AdapterError: A key is missing, left over or of another shape, or a weight is not a finite number.
        """
        for key, value in state.items():
            _require_finite(key, value, where)
        # Shapes come from a file that may lie, so that they are compared before there is memory for them.
        adapter = cls.of_shapes(state, variant, where)
        adapter.to_empty(device="cpu").load_state_dict(dict(state))
        return adapter

    @classmethod
    def of_shapes(cls, state: Mapping[str, Tensor], variant: Variant, where: str) -> "IPAdapter":
        """As `of_state`, of shapes alone and without weights: on the device `meta`.

        Raises:
            AdapterError: A key is missing, left over or of another shape, or is not of floating-point numbers.
        """
        for key, value in state.items():
            _require_floats(key, value, where)
        indices = _stored_indices(state, where)
        widths = widths_of(variant, state, where)
        with torch.device("meta"):
            adapter = cls(variant, widths, {i: _stored_widths(state, i, widths, where) for i in indices})
        _require_keys(state, adapter.state_dict(), variant, where)
        return adapter

    @property
    def cross_layers(self) -> dict[int, AdapterLayer]:
        """What it adds to cross-attention, by published index."""
        layers: dict[str, AdapterLayer] = dict(self.ip_adapter.items())  # type: ignore[arg-type]
        return {int(index): layer for index, layer in layers.items() if layer.is_cross}

    def layer(self, index: int) -> AdapterLayer:
        """Weights for the attention layer of a published index."""
        return self.ip_adapter[str(index)]  # type: ignore[return-value]

    @property
    def num_tokens(self) -> int:
        """Image tokens per picture; 0: as many as the image has patches."""
        return self.widths.num_tokens

    @property
    def embed_dim(self) -> int:
        """Width of the first feature that it reads."""
        return self.widths.features[self.variant.inputs[0]]

    @property
    def cross_attention_dim(self) -> int:
        """Width C of its image tokens."""
        return self.widths.cross_attention_dim

    def forward(self, *features: Tensor, **settings: float) -> ImagePrompt:
        """Encode images, given what `variant.inputs` names, in that order; FaceID-Plus v2 takes `shortcut_scale`."""
        tokens = self.image_proj(*features, **settings)
        cross = self.cross_layers.values()
        return ImagePrompt(
            keys=tuple(layer.to_k_ip(tokens) for layer in cross),
            values=tuple(layer.to_v_ip(tokens) for layer in cross),
            loras=self.loras(),
        )

    def loras(self) -> tuple[AttentionLora, ...]:
        """Its LoRA for every row, if it has one."""
        # Some FaceID files come with their LoRA taken out.
        layers: dict[str, AdapterLayer] = dict(self.ip_adapter.items())  # type: ignore[arg-type]
        pairs = {
            int(index): {target: LowRank(lora.down.weight, lora.up.weight) for target, lora in layer.loras.items()}
            for index, layer in layers.items()
        }
        if not any(pairs.values()):
            return ()
        return (AttentionLora(tuple(pairs.get(index, {}) for index in range(max(pairs) + 1))),)

    @property
    def outline(self) -> AdapterOutline:
        """Its widths."""
        layers = {}
        stored: dict[str, AdapterLayer] = dict(self.ip_adapter.items())  # type: ignore[arg-type]
        for index, layer in stored.items():
            lora = {
                target: (x.down.in_features, x.down.out_features, x.up.out_features)
                for target, x in layer.loras.items()
            }
            key_value = (layer.to_k_ip.in_features, layer.to_k_ip.out_features) if layer.is_cross else None
            layers[int(index)] = LayerOutline(key_value=key_value, lora=lora)
        return AdapterOutline(
            cross_attention_dim=self.cross_attention_dim, features=dict(self.widths.features), layers=layers
        )

    def require_fit(self, unet: UNet2DConditionModel) -> None:
        """Refuse a UNet whose attention layers are not the ones this adapter was made for.

        Raises:
            AdapterError: Another number of layers or another width, with the first layer that differs.
        """
        require_fit(self.outline, attention_outline(unet))


def _layer_widths(attn: Attention, rank: int) -> LayerWidths:
    widths = projection_widths(attn)
    return LayerWidths(
        key_value=widths["k"] if attn.is_cross_attention else None,
        lora={target: (inside, rank, outside) for target, (inside, outside) in widths.items()} if rank else {},
    )


def _require_floats(key: str, value: Tensor, where: str) -> None:
    if not value.is_floating_point() or value.layout != torch.strided:
        kind = str(value.layout if value.layout != torch.strided else value.dtype).removeprefix("torch.")
        raise _no_weights(key, kind, where)


def _require_finite(key: str, value: Tensor, where: str) -> None:
    _require_floats(key, value, where)
    if value.is_meta:
        raise _no_weights(key, "a shape without values", where)
    # As float32, in which it will be used: not every format knows what is finite.
    if not torch.isfinite(value.float()).all():
        raise AdapterError(f"{where} has a weight in {key!r} that is not a number; train or download it again")


def _no_weights(key: str, kind: str, where: str) -> AdapterError:
    return AdapterError(
        f"{where} has {key!r} as {kind}, weights must be dense floating-point numbers; "
        "convert it again as float32, float16 or bfloat16"
    )


def _require_keys(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], variant: Variant, where: str) -> None:
    cure = "download or convert it again"
    for key in wanted:
        if key not in state:
            raise AdapterError(f"{where} is no whole adapter of variant {variant.name!r}: it lacks {key!r}; {cure}")
    for key, value in state.items():
        if key not in wanted:
            raise AdapterError(f"{where} has {key!r}, which no adapter of variant {variant.name!r} has; {cure}")
        if value.shape != wanted[key].shape:
            raise AdapterError(
                f"{where} has {key!r} of shape {list(value.shape)}, beside its other weights it must be "
                f"{list(wanted[key].shape)}; {cure}"
            )


def _stored_indices(state: Mapping[str, Tensor], where: str) -> list[int]:
    """Published indices of the layers that a flat state dict has weights for."""
    found: set[int] = set()
    for key in state:
        if key.startswith("ip_adapter."):
            match = _LAYER.match(key)
            if match is None:
                raise AdapterError(
                    f"{where} has {key!r}, where a layer's number must follow 'ip_adapter.'; "
                    "download or convert it again"
                )
            found.add(int(match[1]))
    return sorted(found)


def _stored_widths(state: Mapping[str, Tensor], index: int, widths: Widths, where: str) -> LayerWidths:
    prefix = f"ip_adapter.{index}"

    def shape(name: str) -> tuple[int, ...]:
        return stored_shape(state, f"{prefix}.{name}.weight", 2, where)

    is_cross = any(f"{prefix}.{name}.weight" in state for name in ("to_k_ip", "to_v_ip"))
    lora: dict[LoraTarget, tuple[int, int, int]] = {}
    for target in _TARGETS:
        name = f"to_{target}_lora"
        if any(f"{prefix}.{name}.{half}.weight" in state for half in ("down", "up")):
            rank, inside = shape(f"{name}.down")
            lora[target] = (inside, rank, shape(f"{name}.up")[0])
    return LayerWidths((widths.cross_attention_dim, shape("to_k_ip")[0]) if is_cross else None, lora)
