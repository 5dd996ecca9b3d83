"""From what a request says of pictures to an image prompt, with a memory: who asks again waits for no encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.caches import CacheStats, TensorCache, image_digest
from nigaoe.core.engine.rows import GuidedImagePrompt
from nigaoe.core.errors import AdapterError, ImageError
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.faces.features import adapter_face_features, face_features
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.crops import CropMode, crop_reference
from nigaoe.core.image_prompts.embedding_files import StoredEmbeddings
from nigaoe.core.image_prompts.features import (
    ImageFeatures,
    image_features,
    picture_weights,
    stored_features,
    tiled_features,
)
from nigaoe.core.image_prompts.masks import as_mask
from nigaoe.core.image_prompts.prompt import PromptScales, guided_image_prompt, with_loras
from nigaoe.core.image_prompts.remembering import RememberingEncoder, RememberingFaceEncoder
from nigaoe.core.models import fingerprint
from nigaoe.core.pixels import as_pil

FEATURE_CACHE_BYTES = 256 * 2**20
"""About 200 pictures of ViT-H's hidden states."""
PROMPT_CACHE_BYTES = 512 * 2**20
"""About 170 prompts of 16 tokens for SD 1.5 in float32, or 670 of 4."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Pictures, or their stored embeddings, and what to make of them; one adapter reads them."""

    images: tuple[Image.Image, ...] = ()
    stored: StoredEmbeddings | None = None
    """In place of pictures."""
    crop: CropMode | Literal["face"] = "centre"
    """How pictures become square. `face`: cut out and aligned, as Plus-Face wants it; FaceID variants always do."""
    crop_position: tuple[float, float] = (0.5, 0.5)
    negative: Image.Image | None = None
    """What the result should not be like; cut in the centre, as CLIP does."""
    scales: PromptScales = field(default_factory=PromptScales)
    mask: Tensor | None = None
    """Where it applies, [H, W] in [0, 1] at the size of the picture that is drawn; grey pictures are taken too."""

    def __post_init__(self) -> None:
        """Take pictures and masks of any kind.

        Raises:
            ImageError: Something that is none.
            AdapterError: Scales of another kind.
        """
        if not isinstance(self.images, (tuple, list)):
            raise ImageError(f"images is of type {type(self.images).__name__}; give a tuple of pictures")
        if not isinstance(self.scales, PromptScales):
            raise AdapterError(f"scales is {self.scales!r}; give PromptScales(scale={self.scales!r})")
        object.__setattr__(self, "images", tuple(as_pil(image) for image in self.images))
        object.__setattr__(self, "crop_position", tuple(self.crop_position))
        if self.negative is not None:
            object.__setattr__(self, "negative", as_pil(self.negative))
        if self.mask is not None:
            object.__setattr__(self, "mask", as_mask(self.mask))


class Conditioner:
    """Encodes references, for one thread. It remembers what encoders saw, and the keys and values made of it."""

    def __init__(
        self,
        encoder: ImageEncoder | None,
        faces: FaceEncoder | None = None,
        *,
        feature_bytes: int = FEATURE_CACHE_BYTES,
        prompt_bytes: int = PROMPT_CACHE_BYTES,
    ) -> None:
        self._looks = None if encoder is None else RememberingEncoder(encoder, feature_bytes)
        # One that remembers may be shared with others.
        if faces is not None and not isinstance(faces, RememberingFaceEncoder):
            faces = RememberingFaceEncoder(faces)
        self._faces = faces
        self._prompts: TensorCache[GuidedImagePrompt] = TensorCache(prompt_bytes)
        self._fingerprints: WeakKeyDictionary[IPAdapter, tuple[str, str]] = WeakKeyDictionary()

    def prompt(self, adapter: IPAdapter, reference: Reference) -> GuidedImagePrompt:
        """Encode a reference for an adapter.

        Raises:
            AdapterError: Nothing to encode, things that exclude each other, an encoder of another adapter, or a scale
                outside its range.
            FaceNotFoundError: A face is needed and a picture shows none.
            ImageError: A picture that no crop mode takes.
        """
        if reference.stored is not None:
            self._require_readable(adapter, reference, reference.stored)
            prompt = guided_image_prompt(adapter, stored_features(adapter, reference.stored), reference.scales)
        else:
            negative = None if reference.negative is None else image_digest(reference.negative)
            pictures = tuple(image_digest(image) for image in reference.images)
            # What keys and values do not depend on is no part of the key, and put to them afterwards.
            whole = replace(reference, scales=replace(reference.scales, start=0.0, end=1.0, lora_scale=1.0))
            key = (self._fingerprint(adapter), pictures, negative, whole.crop, whole.crop_position, whole.scales)
            prompt = self._prompts.get(key, lambda: _without_loras(self._encode(adapter, whole)))
            prompt = with_loras(prompt, adapter, reference.scales)
        return prompt._replace(start=reference.scales.start, end=reference.scales.end, mask=reference.mask)

    def prime(self, adapter: IPAdapter) -> None:
        """Hash the weights of an adapter now, on any thread; otherwise its first prompt waits for that."""
        self._fingerprint(adapter)

    def embed(self, images: Sequence[Image.Image]) -> StoredEmbeddings:
        """All that the encoders say of whole pictures, cut in the centre; identities where each of them shows a face.

        Raises:
            AdapterError: No pictures, or no encoder.
        """
        if not images or (self._looks is None and self._faces is None):
            raise AdapterError("embeddings need at least one picture and an encoder; give both")
        conditional: dict[Feature, Tensor] = {}
        unconditional: dict[Feature, Tensor] = {}
        if self._looks is not None:
            seen, nothing = self._looks.look(images), self._looks.look_at_nothing()
            conditional |= {"image_embeds": seen.image_embeds, "hidden_states": seen.hidden_states}
            unconditional["image_embeds"] = torch.zeros_like(nothing.image_embeds)
            unconditional["hidden_states"] = nothing.hidden_states
        found = [] if self._faces is None else [self._faces.find(image) for image in images]
        if found and all(found):
            conditional["identity"] = torch.stack([faces[0].identity for faces in found])
            unconditional["identity"] = torch.zeros_like(conditional["identity"][:1])
        if not conditional:
            raise AdapterError("a picture shows no face, and there is no other encoder to look at it; give another")
        speaker = self._looks or self._faces
        assert speaker is not None
        fingerprint = None if self._looks is None else self._looks.fingerprint
        return StoredEmbeddings(conditional, unconditional, speaker.name, fingerprint, crop="centre")

    @property
    def encoder_side(self) -> int | None:
        """Of the squares that the image encoder sees, px; None: there is none."""
        return None if self._looks is None else self._looks.side

    @property
    def feature_cache(self) -> CacheStats:
        """Figures of the memory for what the image encoder saw."""
        return self._looks.cache if self._looks is not None else CacheStats(0, 0, 0, 0, 0)

    @property
    def prompt_cache(self) -> CacheStats:
        """Figures of the memory for keys and values."""
        return self._prompts.stats

    def _encode(self, adapter: IPAdapter, reference: Reference) -> GuidedImagePrompt:
        if not reference.images:
            raise AdapterError("an image prompt needs at least one picture and got none; give one")
        weights = picture_weights(len(reference.images), reference.scales.weights)
        features, tiles = self._features(adapter, reference)
        scales = reference.scales
        if max(tiles) > 1 and scales.combination == "concat":
            repeated = [weight for weight, count in zip(weights, tiles, strict=True) for _ in range(count)]
            scales = replace(scales, weights=tuple(repeated))
        elif max(tiles) > 1:
            features = tiled_features(features, tiles)
        return guided_image_prompt(adapter, features, scales)

    def _require_readable(self, adapter: IPAdapter, reference: Reference, stored: StoredEmbeddings) -> None:
        if reference.images:
            raise AdapterError(
                f"{stored.where} and {len(reference.images)} pictures were given for one image prompt; give either"
            )
        if reference.negative is not None:
            raise AdapterError(
                f"{stored.where} and a negative picture were given for one image prompt; leave the picture out, or "
                "store it and add it by `against`"
            )
        if stored.crop == "centre" and {"identity", "hidden_states"} <= set(adapter.variant.inputs):
            raise AdapterError(
                f"variant {adapter.variant.name!r} reads hidden states of aligned faces, {stored.where} has those of "
                "whole pictures; give the pictures"
            )
        reads_clip = adapter.variant.inputs != ("identity",)
        if not reads_clip or self._looks is None or stored.fingerprint in (None, self._looks.fingerprint):
            return
        raise AdapterError(
            f"{stored.where} is of image encoder {stored.encoder!r} with weights {stored.fingerprint}, here is "
            f"{self._looks.name!r} with {self._looks.fingerprint}; encode the pictures with this one"
        )

    def _features(self, adapter: IPAdapter, reference: Reference) -> tuple[ImageFeatures, list[int]]:
        """Of all squares of all pictures, and how many squares each picture has."""
        inputs = adapter.variant.inputs
        identity, images = None, list(reference.images)
        if "identity" in inputs:
            faces = self._face_encoder(f"variant {adapter.variant.name!r} reads a face recogniser's identity")
            if inputs == ("identity",) and reference.negative is not None:
                raise AdapterError(
                    f"variant {adapter.variant.name!r} reads identities alone, which have no negative, and a negative "
                    "picture was given; leave it out"
                )
            if "hidden_states" in inputs:
                self._require_looks(adapter)
            identity, images = adapter_face_features(adapter, faces, images)
            if inputs == ("identity",):
                return ImageFeatures((identity,), (torch.zeros_like(identity[:1]),)), [1] * len(images)
        looks = self._require_looks(adapter)
        squares = [[image] if identity is not None else self._cropped(image, reference) for image in images]
        flat = [square for some in squares for square in some]
        features = image_features(adapter, looks, flat, identity, reference.negative)
        return features, [len(some) for some in squares]

    def _cropped(self, image: Image.Image, reference: Reference) -> list[Image.Image]:
        assert self._looks is not None
        if reference.crop == "face":
            faces = self._face_encoder("crop 'face' was asked for")
            return face_features(faces, [image], side=self._looks.side, names=["a reference picture"]).crops
        if reference.crop == "centre" and reference.crop_position == (0.5, 0.5):
            return [image]
        return crop_reference(image, reference.crop, self._looks.side, reference.crop_position, self._looks.fill)

    def _require_looks(self, adapter: IPAdapter) -> RememberingEncoder:
        if self._looks is None:
            raise AdapterError(f"variant {adapter.variant.name!r} reads CLIP and there is no image encoder; give one")
        return self._looks

    def _face_encoder(self, why: str) -> RememberingFaceEncoder:
        if self._faces is None:
            raise AdapterError(
                f"{why} and there is no face encoder; give one, or use an adapter and a crop that need none"
            )
        return self._faces

    def _fingerprint(self, adapter: IPAdapter) -> str:
        # Torch counts how often a tensor was written to; an adapter that was trained meanwhile is another one.
        weights = list(adapter.parameters())
        version = f"{weights[0].device} {weights[0].dtype} {sum(weight._version for weight in weights)}"
        known = self._fingerprints.get(adapter)
        if known is None or known[0] != version:
            known = version, f"{adapter.variant.name} {version} {fingerprint(adapter)}"
            self._fingerprints[adapter] = known
        return known[1]


def _without_loras(prompt: GuidedImagePrompt) -> GuidedImagePrompt:
    """LoRAs are the adapter's own weights: in a memory they would count hundreds of times, and outlive it."""
    return prompt._replace(
        conditional=prompt.conditional._replace(loras=()), unconditional=prompt.unconditional._replace(loras=())
    )
