"""From pictures to what an adapter reads of them, and of none.

What "no image" means differs from variant to variant, as each was trained with its own: the zero embedding (base); the
mean-grey picture, zero *after* CLIP's normalisation and not black (Plus, Full-Face); the zero identity (FaceID).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.inspection import ENCODERS
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_encoders import Impression
from nigaoe.core.image_prompts.embedding_files import StoredEmbeddings
from nigaoe.core.pixels import ImageLike

Merge = Literal["average", "norm_average", "add", "subtract"]
"""How the features of several pictures become those of one: their mean; the mean of their directions, as long as they
are on average; their sum; the first without the mean of the others."""


class Looks(Protocol):
    """An image encoder, or one that remembers what it saw."""

    @property
    def name(self) -> str:
        """How messages name it."""

    @property
    def embed_dim(self) -> int:
        """E of the embeddings."""

    @property
    def hidden_dim(self) -> int:
        """D of the hidden states."""

    def look(self, images: Sequence[ImageLike]) -> Impression:
        """Pictures to all that adapters read of them."""

    def look_at_nothing(self) -> Impression:
        """The picture that adapters were trained to take for none."""


class ImageFeatures(NamedTuple):
    """What an adapter reads of B pictures, and what it reads of none."""

    conditional: tuple[Tensor, ...]
    """In the order of `variant.inputs`, [B, ...]."""
    unconditional: tuple[Tensor, ...]
    """The same of no picture, or of negative ones, [1, ...] or [B, ...]."""

    @property
    def num_pictures(self) -> int:
        """B."""
        return len(self.conditional[0])


def require_encoder(adapter: IPAdapter, encoder: Looks, *, has_identity: bool = False) -> None:
    """Refuse an image encoder that cannot give what the adapter was trained on; `has_identity`: identities come apart.

    Raises:
        AdapterError: An identity is needed and there is none; or another width, with the encoder that it belongs to.
    """
    if "identity" in adapter.variant.inputs and not has_identity:
        raise AdapterError(
            f"variant {adapter.variant.name!r} reads a face recogniser's identity, which no CLIP encoder gives; "
            "give a face encoder, or use an adapter that reads the image alone"
        )
    given: dict[Feature, int] = {"image_embeds": encoder.embed_dim, "hidden_states": encoder.hidden_dim}
    for feature, width in adapter.widths.features.items():
        if feature in given:
            require_width(feature, width, given[feature], f"image encoder {encoder.name!r}")


def image_features(
    adapter: IPAdapter,
    encoder: Looks,
    images: Sequence[ImageLike],
    identity: Tensor | None = None,
    negative: ImageLike | None = None,
) -> ImageFeatures:
    """Encode pictures as the variant reads them; `identity` [B, I] or [B, F, I] where it reads one.

    `negative`: what the picture should not be like, in place of no picture; identities have no such thing.

    Raises:
        AdapterError: No pictures, an encoder of another width, or an identity missing.
    """
    if not images:
        raise AdapterError("an image prompt needs at least one picture and got none; give one")
    require_encoder(adapter, encoder, has_identity=identity is not None)
    inputs = adapter.variant.inputs
    conditional: dict[Feature, Tensor] = {}
    unconditional: dict[Feature, Tensor] = {}
    if identity is not None:
        conditional["identity"], unconditional["identity"] = identity, torch.zeros_like(identity[:1])
    if set(inputs) - {"identity"}:
        seen = encoder.look(images)
        nothing = encoder.look_at_nothing() if negative is None else encoder.look([negative])
        conditional |= {"image_embeds": seen.image_embeds, "hidden_states": seen.hidden_states}
        unconditional["hidden_states"] = nothing.hidden_states
        unconditional["image_embeds"] = (
            torch.zeros_like(nothing.image_embeds) if negative is None else nothing.image_embeds
        )
    return ImageFeatures(tuple(conditional[name] for name in inputs), tuple(unconditional[name] for name in inputs))


def stored_features(adapter: IPAdapter, stored: StoredEmbeddings) -> ImageFeatures:
    """Features that were computed before.

    Raises:
        AdapterError: One that the variant reads is missing or has another width.
    """
    features = ImageFeatures(*stored.in_order(adapter.variant.inputs))
    for feature, width in adapter.widths.features.items():
        require_width(feature, width, stored.conditional[feature].shape[-1], stored.where)
    return features


def embedding_features(image_embeds: Tensor) -> ImageFeatures:
    """Features of a base adapter from image embeddings [B, E]."""
    return ImageFeatures((image_embeds,), (torch.zeros_like(image_embeds[:1]),))


def merged_features(features: ImageFeatures, how: Merge, weights: Sequence[float] | None = None) -> ImageFeatures:
    """Features of several pictures as those of one, [1, ...]; `weights`: one per picture.

    Raises:
        AdapterError: Not one weight per picture, or weights that add up to nothing where a mean is wanted.
    """
    given = picture_weights(features.num_pictures, weights)
    # Not exactly 0: weights like 0.1, 0.2 and -0.3 leave a remainder, by which a mean would be divided.
    if how in ("average", "norm_average") and abs(math.fsum(given)) <= 1e-6 * math.fsum(map(abs, given)):
        raise AdapterError("the weights of several pictures add up to 0, so they have no mean; change one")
    return ImageFeatures(
        tuple(_merged(x, how, given) for x in features.conditional),
        tuple(x.mean(0, keepdim=True) for x in features.unconditional),
    )


def tiled_features(features: ImageFeatures, tiles: Sequence[int]) -> ImageFeatures:
    """Features of pictures that were seen in so many squares each: the mean over those of one picture."""
    return features._replace(
        conditional=tuple(torch.stack([part.mean(0) for part in x.split(list(tiles))]) for x in features.conditional)
    )


def picture_weights(count: int, weights: Sequence[float] | None) -> list[float]:
    """One weight per picture, 1 where none were given.

    Raises:
        AdapterError: Not one per picture.
    """
    if weights is not None and len(weights) != count:
        raise AdapterError(f"{len(weights)} weights were given for {count} pictures; give one each")
    return [1.0] * count if weights is None else list(weights)


def _merged(x: Tensor, how: Merge, weights: list[float]) -> Tensor:
    w = x.new_tensor(weights).view(-1, *[1] * (x.dim() - 1))
    if how == "add":
        return (w * x).sum(0, keepdim=True)
    if how == "subtract":
        weighted = w * x
        return weighted[:1] - weighted[1:].mean(0, keepdim=True) if len(x) > 1 else weighted
    share = w / w.sum()
    if how == "average":
        return (share * x).sum(0, keepdim=True)
    # Features as short as the mean of unit vectors were never seen in training.
    length = x.norm(dim=-1, keepdim=True)
    direction = (share * x / length.clamp(min=1e-12)).sum(0, keepdim=True)
    merged: Tensor = direction * (share * length).sum(0, keepdim=True)
    return merged


def require_width(feature: Feature, width: int, given: int, whose: str) -> None:
    """Refuse features of another width than the adapter reads; `whose`: how the message names who gives them.

    Raises:
        AdapterError: They differ, with the encoder that it belongs to.
    """
    if width != given:
        known = ENCODERS.get((feature, width))
        cure = f"use {known}" if known else "use the encoder that it was trained with"
        raise AdapterError(f"the adapter reads {feature} of width {width}, {whose} gives {given}; {cure}")
