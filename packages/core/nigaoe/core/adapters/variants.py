"""The published variants: what each reads, how it is built, how a file of it is recognised by its contents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nigaoe.core.adapter_names import Feature as Feature
from nigaoe.core.adapter_names import VariantName as VariantName
from nigaoe.core.adapters.base import ImageProjModel
from nigaoe.core.adapters.faceid import IdentityProjModel
from nigaoe.core.adapters.faceid_plus import ProjPlusModel
from nigaoe.core.adapters.full import MLPProjModel
from nigaoe.core.adapters.plus import Resampler
from nigaoe.core.adapters.resampler import DIM_HEAD
from nigaoe.core.errors import AdapterError

IDENTITY_DIM = 512
"""Width of ArcFace embeddings, for which every published identity adapter was trained."""

PUBLISHED_NAMES: dict[str, VariantName] = {"light": "base", "vit-g": "base", "plus-face": "plus", "full-face": "full"}
"""Names of files that differ from another variant in their weights only."""


@dataclass(frozen=True)
class Widths:
    """What a projection has to know of the models around it; a width that it does not read may be anything."""

    cross_attention_dim: int
    features: Mapping[Feature, int]
    num_tokens: int
    resampler_dim: int
    """Inner width of a Plus resampler: the text width for SD, 1280 for SDXL, as published."""
    resampler_heads: int
    depth: int = 4


@dataclass(frozen=True)
class Variant:
    """One architecture of the family."""

    name: VariantName
    inputs: tuple[Feature, ...]
    """What its projection reads, in order."""
    num_tokens: int
    """As published; 0: one per patch of the image."""
    project: Callable[[Widths], nn.Module]
    marker: str
    """A key of `image_proj` that its files have."""
    has_lora: bool = False
    has_shortcut: bool = False
    """Whether its projection takes a `shortcut_scale`."""


def _resampler(feature: Feature) -> Callable[[Widths], nn.Module]:
    def build(w: Widths) -> nn.Module:
        embed_dim = w.features[feature]
        return Resampler(embed_dim, w.resampler_dim, w.cross_attention_dim, w.resampler_heads, w.num_tokens, w.depth)

    return build


def _identity(w: Widths) -> nn.Module:
    return IdentityProjModel(w.features["identity"], w.cross_attention_dim, w.num_tokens)


def _faceid_plus(shortcut: bool) -> Callable[[Widths], nn.Module]:
    def build(w: Widths) -> nn.Module:
        identity, hidden = w.features["identity"], w.features["hidden_states"]
        return ProjPlusModel(identity, hidden, w.cross_attention_dim, w.num_tokens, shortcut=shortcut)

    return build


_PERCEIVER = "perceiver_resampler.proj_in.weight"
_BOTH: tuple[Feature, ...] = ("identity", "hidden_states")

VARIANTS: dict[VariantName, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "base",
            ("image_embeds",),
            4,
            lambda w: ImageProjModel(w.features["image_embeds"], w.cross_attention_dim, w.num_tokens),
            marker="proj.weight",
        ),
        Variant(
            "full",
            ("hidden_states",),
            0,
            lambda w: MLPProjModel(w.features["hidden_states"], w.cross_attention_dim),
            marker="proj.3.weight",
        ),
        Variant("faceid-plus", _BOTH, 4, _faceid_plus(shortcut=False), marker=_PERCEIVER, has_lora=True),
        Variant("faceid-plusv2", _BOTH, 4, _faceid_plus(shortcut=True), _PERCEIVER, has_lora=True, has_shortcut=True),
        Variant("faceid", ("identity",), 4, _identity, marker="proj.0.weight", has_lora=True),
        Variant("portrait", ("identity",), 16, _identity, marker="proj.0.weight"),
        Variant("plus", ("hidden_states",), 16, _resampler("hidden_states"), marker="latents"),
        Variant("portrait-unnormalised", ("identity",), 16, _resampler("identity"), marker="latents"),
    )
}


def variant_named(name: str) -> Variant:
    """A variant by its own name or by that of a published file.

    Raises:
        AdapterError: No such variant.
    """
    architecture = PUBLISHED_NAMES.get(name, name)
    for variant in VARIANTS.values():
        if variant.name == architecture:
            return variant
    known = ", ".join([*VARIANTS, *PUBLISHED_NAMES])
    raise AdapterError(f"there is no adapter variant {name!r}; choose one of {known}")


def detect_variant(state: Mapping[str, Tensor], told: str | None, where: str) -> Variant:
    """The variant of a flat state dict, by its keys and shapes; `told` decides where those leave two.

    Raises:
        AdapterError: No variant has such keys, several do and nobody told which, or another was told.
    """
    candidates = matching_variants(state, told)
    if not candidates:
        keys = sorted(key for key in state if key.startswith("image_proj."))[:3]
        raise AdapterError(
            f"{where} is not an IP-Adapter of any known variant: of image_proj it has {', '.join(keys) or 'nothing'}; "
            "download or convert it again"
        )
    if told is not None:
        variant = variant_named(told)
        if variant not in candidates:
            raise AdapterError(
                f"{where} was said to be {told!r}, its keys are those of {_either(candidates)}; leave the variant out"
            )
        return variant
    if len(candidates) > 1:
        raise AdapterError(
            f"{where} may be {_either(candidates)}, whose keys are the same; say which by the option `variant`"
        )
    return candidates[0]


def matching_variants(state: Mapping[str, Tensor], told: str | None = None) -> list[Variant]:
    """Variants whose files have these keys; none, one, or two that only somebody who knows can tell apart.

    `told`: what somebody said; it is believed where the keys allow it, however unlikely the widths make it.
    """
    marked = next((v.marker for v in VARIANTS.values() if f"image_proj.{v.marker}" in state), None)
    found = [variant for variant in VARIANTS.values() if variant.marker == marked]
    if marked == "proj.0.weight":
        has_lora = any("_lora." in key for key in state)
        return [variant for variant in found if variant.has_lora == has_lora]
    if marked == "latents":
        shape = state["image_proj.proj_in.weight"].shape if "image_proj.proj_in.weight" in state else ()
        # CLIP's hidden states may be as wide as an identity; only then is there a doubt.
        is_said = told is not None and variant_named(told) in found
        return found if shape[1:] == (IDENTITY_DIM,) or is_said else [VARIANTS["plus"]]
    return found


def _either(candidates: list[Variant]) -> str:
    return " or ".join(repr(variant.name) for variant in candidates)


def stored_shape(state: Mapping[str, Tensor], key: str, axes: int, where: str) -> tuple[int, ...]:
    """Shape of a weight that must be there, with that many axes and at least one value.

    Raises:
        AdapterError: It is missing or of another kind of shape.
    """
    if key not in state:
        raise AdapterError(f"{where} is no whole adapter: it lacks {key!r}; download or convert it again")
    shape = tuple(state[key].shape)
    if len(shape) != axes or 0 in shape:
        raise AdapterError(
            f"{where} has {key!r} of shape {list(shape)}, which must have {axes} {'axis' if axes == 1 else 'axes'} "
            "and no empty one; download or convert it again"
        )
    return shape


def widths_of(variant: Variant, state: Mapping[str, Tensor], where: str) -> Widths:
    """Widths that a flat state dict of this variant was made with; `where`: how messages name its origin.

    Raises:
        AdapterError: A key that every file of the variant has is missing or of another kind of shape.
    """

    def shape(key: str, axes: int = 2) -> tuple[int, ...]:
        return stored_shape(state, f"image_proj.{key}", axes, where)

    if variant.name == "base":
        out, embed_dim = shape("proj.weight")
        width = shape("norm.weight", 1)[0]
        return Widths(width, {"image_embeds": embed_dim}, max(1, out // width), 0, 0)
    if variant.name == "full":
        return Widths(shape("proj.3.weight", 1)[0], {"hidden_states": shape("proj.0.weight")[1]}, 0, 0, 0)
    if variant.marker == "latents":
        _, num_tokens, dim = shape("latents", 3)
        heads = max(1, shape("layers.0.0.to_q.weight")[0] // DIM_HEAD)
        layers = {key.split(".")[2] for key in state if key.startswith("image_proj.layers.")}
        width, reads = shape("proj_out.weight")[0], shape("proj_in.weight")[1]
        return Widths(width, {variant.inputs[0]: reads}, num_tokens, dim, heads, len(layers))
    width = shape("norm.weight", 1)[0]
    features: dict[Feature, int] = {"identity": shape("proj.0.weight")[1]}
    if variant.marker == _PERCEIVER:
        features["hidden_states"] = shape("perceiver_resampler.proj_in.weight")[1]
    return Widths(width, features, max(1, shape("proj.2.weight")[0] // width), 0, 0)
