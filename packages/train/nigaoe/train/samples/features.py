"""What the variants read of pictures, encoded once; and what they read of no picture, stored beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessorPil

from nigaoe.core.adapters.variants import Feature, Variant
from nigaoe.core.errors import DataError
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.faces.features import CROP_SIDE, SDXL_CROP_SIDE, face_features
from nigaoe.core.faces.loading import load_face_encoder
from nigaoe.core.image_encoders import ImageEncoder, crop_pictures, load_image_encoder, load_processor


def reads_raw_identity(variant: Variant) -> bool:
    """Whether it was published with identities as the recogniser gives them, not of length 1."""
    return variant.name == "portrait-unnormalised"


def reading(variant: Variant) -> str:
    """What it reads, in words; data that were prepared for one variant serve all of the same words."""
    if "identity" not in variant.inputs:
        return " and ".join(variant.inputs)
    if "hidden_states" in variant.inputs:
        return "identity and hidden_states of the face"
    return "unnormalised identity" if reads_raw_identity(variant) else "identity"


class SeenPicture(NamedTuple):
    """What the encoders need of a picture, and no more, so that it can be sent to them."""

    crop: Tensor | None
    """What CLIP sees: the picture or the face in it, uint8 [3, S, S]; None where the variant does not ask CLIP."""
    identity: Tensor | None
    """Of the largest face, float32 [I]; None where the variant reads none."""


@dataclass(frozen=True, eq=False)
class PictureReader:
    """All that is done to a picture before CLIP sees it. Any thread may ask."""

    variant: Variant
    processor: CLIPImageProcessorPil
    face_encoder: FaceEncoder | None
    face_side: int
    """Of the crops of faces, px."""
    turn: Lock = field(default_factory=Lock)
    """Face encoders take one thread at a time."""

    @classmethod
    def load(cls, variant: Variant, image_encoder: str, face_encoder: str | None, *, is_xl: bool) -> "PictureReader":
        """Load by name; `is_xl`: the base is SDXL, for which published adapters saw faces cut larger.

        Raises:
            BaseModelError: One of them cannot be found.
        """
        faces = None if face_encoder is None else load_face_encoder(face_encoder)
        return cls(variant, load_processor(image_encoder), faces, SDXL_CROP_SIDE if is_xl else CROP_SIDE)

    def see(self, image: Image.Image, name: str) -> SeenPicture:
        """Look at an RGB picture; `name` is what errors call it.

        Raises:
            ImageError: It shows no face and the variant reads one.
        """
        identity, shown = None, image
        if self.face_encoder is not None:
            is_normalised = not reads_raw_identity(self.variant)
            with self.turn:
                faces = face_features(
                    self.face_encoder, [image], side=self.face_side, is_normalised=is_normalised, names=[name]
                )
            identity, shown = faces.identity[0], faces.crops[0]
        return SeenPicture(crop_pictures(self.processor, [shown])[0] if asks_clip(self.variant) else None, identity)


def asks_clip(variant: Variant) -> bool:
    """Whether it reads anything but an identity."""
    return bool(set(variant.inputs) - {"identity"})


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """The frozen CLIP tower, as a variant uses it."""

    variant: Variant
    image_encoder: ImageEncoder

    @classmethod
    def load(cls, variant: Variant, image_encoder: str, device: str | torch.device = "cpu") -> "FeatureEncoder":
        """Load by name.

        Raises:
            BaseModelError: It cannot be found.
        """
        return cls(variant, load_image_encoder(image_encoder, device))

    def encode(self, seen: Sequence[SeenPicture]) -> dict[Feature, Tensor]:
        """See `encode_seen`."""
        return encode_seen(self.variant, self.image_encoder, seen)

    def of_nothing(self, face_encoder: FaceEncoder | None) -> dict[Feature, Tensor]:
        """See `features_of_nothing`."""
        return features_of_nothing(self.variant, self.image_encoder, face_encoder)


def encode_seen(
    variant: Variant, image_encoder: ImageEncoder | None, seen: Sequence[SeenPicture]
) -> dict[Feature, Tensor]:
    """What a variant reads of pictures, [B, ...] on the CPU; `image_encoder` where it asks CLIP.

    Float32, and hidden states float16, for they are by far the largest.
    """
    features: dict[Feature, Tensor] = {}
    identities = [picture.identity for picture in seen if picture.identity is not None]
    if identities:
        features["identity"] = torch.stack(identities)
    crops = [picture.crop for picture in seen if picture.crop is not None]
    if crops and image_encoder is not None:
        said = image_encoder.look_at_crops(torch.stack(crops))
        features |= {"image_embeds": said.image_embeds, "hidden_states": said.hidden_states.half()}
    return {name: features[name].cpu() for name in variant.inputs}


def features_of_nothing(
    variant: Variant, image_encoder: ImageEncoder | None, face_encoder: FaceEncoder | None
) -> dict[Feature, Tensor]:
    """What adapters of a variant take for no picture, float32 [1, ...]: see `core.image_prompts.features`."""
    none: dict[Feature, Tensor] = {}
    if image_encoder is not None:
        none["image_embeds"] = torch.zeros(1, image_encoder.embed_dim)
        if "hidden_states" in variant.inputs:
            none["hidden_states"] = image_encoder.look_at_nothing().hidden_states.cpu()
    if face_encoder is not None:
        none["identity"] = torch.zeros(1, face_encoder.dim)
    return {name: none[name] for name in variant.inputs}


@dataclass(frozen=True, eq=False)
class PreparedFeatures:
    """Which features a prepared dataset has."""

    reading: str
    """As `reading` says it."""
    face_encoder: str | None
    unconditional: dict[Feature, Tensor]
    """Of no picture, float32 [1, ...]."""

    @property
    def widths(self) -> dict[Feature, int]:
        """Of each feature."""
        return {name: value.shape[-1] for name, value in self.unconditional.items()}


def write_features(features: PreparedFeatures, folder: Path, fingerprint: str) -> None:
    """Write them beside the shards of a dataset of that fingerprint, whole or not at all."""
    path = _path(folder, fingerprint)
    metadata = {"reading": features.reading, "face_encoder": features.face_encoder or ""}
    save_file({name: x.contiguous() for name, x in features.unconditional.items()}, path.with_suffix(".part"), metadata)
    path.with_suffix(".part").chmod(0o644)
    path.with_suffix(".part").replace(path)


def read_features(folder: Path, fingerprint: str) -> PreparedFeatures:
    """Features of a prepared dataset.

    Raises:
        DataError: Their file is missing or cannot be read.
    """
    path = _path(folder, fingerprint)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            unconditional = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        raise DataError(
            f"prepared dataset {str(folder)!r} lacks {path.name!r} or it is damaged; run `nigaoe prepare` again"
        ) from None
    return PreparedFeatures(metadata["reading"], metadata["face_encoder"] or None, unconditional)


def _path(folder: Path, fingerprint: str) -> Path:
    # By the fingerprint, so that it can never be that of other shards.
    return folder / f"features-{fingerprint}.safetensors"
