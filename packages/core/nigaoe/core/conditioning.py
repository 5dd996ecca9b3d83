"""From pictures to image prompts: what an adapter reads, its unconditional twin, keys and values with the scale inside.

What "no image" means differs from variant to variant, as each was trained with its own: the zero embedding (base); the
mean-grey picture, zero *after* CLIP's normalisation and not black (Plus, Full-Face); the zero identity (FaceID).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.inspection import ENCODERS
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.encoders import ImageEncoder, ImageLike
from nigaoe.core.engine.rows import GuidedImagePrompt
from nigaoe.core.errors import AdapterError


@dataclass(frozen=True)
class ImageFeatures:
    """What an adapter reads of some pictures, and what it reads of none."""

    conditional: tuple[Tensor, ...]
    """In the order of `variant.inputs`, [B, ...]."""
    unconditional: tuple[Tensor, ...]
    """The same of no picture, [1, ...]."""

    def __len__(self) -> int:
        return len(self.conditional[0])


def require_encoder(adapter: IPAdapter, encoder: ImageEncoder, *, has_identity: bool = False) -> None:
    """Refuse an image encoder that cannot give what the adapter was trained on; `has_identity`: identities come apart.

    Raises:
        AdapterError: An identity is needed and there is none; or another width, with the encoder that it belongs to.
    """
    if "identity" in adapter.variant.inputs and not has_identity:
        raise AdapterError(
            f"variant {adapter.variant.name!r} reads a face recogniser's identity, which no CLIP encoder gives; "
            "pass `identity` from Python, or use an adapter that reads the image alone"
        )
    given: dict[Feature, int] = {"image_embeds": encoder.embed_dim, "hidden_states": encoder.hidden_dim}
    for feature, width in adapter.widths.features.items():
        if feature in given and given[feature] != width:
            known = ENCODERS.get((feature, width))
            cure = f"use {known}" if known else "use the encoder that it was trained with"
            raise AdapterError(
                f"the adapter reads {feature} of width {width}, image encoder {encoder.name!r} gives {given[feature]}; "
                f"{cure}"
            )


def image_features(
    adapter: IPAdapter, encoder: ImageEncoder, images: Sequence[ImageLike], identity: Tensor | None = None
) -> ImageFeatures:
    """Encode pictures as the variant reads them; `identity` [B, I] or [B, F, I] where it reads one.

    Raises:
        AdapterError: No pictures, an encoder of another width, or an identity missing.
    """
    if not images:
        raise AdapterError("an image prompt needs at least one picture and got none")
    require_encoder(adapter, encoder, has_identity=identity is not None)
    inputs = adapter.variant.inputs
    conditional: dict[Feature, Tensor] = {}
    unconditional: dict[Feature, Tensor] = {}
    if identity is not None:
        conditional["identity"], unconditional["identity"] = identity, torch.zeros_like(identity[:1])
    if set(inputs) - {"identity"}:
        seen = encoder.look(images)
        conditional |= {"image_embeds": seen.image_embeds, "hidden_states": seen.hidden_states}
        unconditional["image_embeds"] = torch.zeros_like(seen.image_embeds[:1])
    if "hidden_states" in inputs:
        unconditional["hidden_states"] = encoder.look_at_nothing().hidden_states
    return ImageFeatures(tuple(conditional[name] for name in inputs), tuple(unconditional[name] for name in inputs))


@torch.no_grad()
def guided_image_prompts(
    adapter: IPAdapter, features: ImageFeatures, scale: float = 1.0, factors: Sequence[float] | None = None
) -> list[GuidedImagePrompt]:
    """One guided prompt per picture, scale folded in; `factors`: of each layer, as `layer_factors` gives them.

    Raises:
        AdapterError: Not as many factors as the adapter has cross-attention layers.
    """
    layers = len(adapter.cross_layers)
    if factors is not None and len(factors) != layers:
        raise AdapterError(f"{len(factors)} layer factors were given for an adapter of {layers} layers; give one each")
    by_layer = [scale] * layers if factors is None else [scale * factor for factor in factors]
    conditional = adapter(*features.conditional).scaled_by_layer(by_layer)
    unconditional = adapter(*features.unconditional).scaled_by_layer(by_layer)
    return [GuidedImagePrompt(conditional.rows(i, i + 1), unconditional) for i in range(len(features))]


def embedding_features(image_embeds: Tensor) -> ImageFeatures:
    """Features of a base adapter from stored image embeddings [B, E]."""
    return ImageFeatures((image_embeds,), (torch.zeros_like(image_embeds[:1]),))
