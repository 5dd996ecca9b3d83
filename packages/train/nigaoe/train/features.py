"""What the variants read of pictures, encoded once; and what they read of no picture, stored beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nigaoe.core.adapters.variants import Feature, Variant
from nigaoe.core.errors import DataError
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.faces.features import FaceFeatures, face_features
from nigaoe.core.faces.loading import load_face_encoder
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from nigaoe.core.images import read_image

COLUMNS: dict[Feature, str] = {
    "image_embeds": "image_embeds",
    "hidden_states": "hidden_states",
    "identity": "face_identity",
}
"""Names in a shard, in which `identity` says already whose picture a row is."""


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
    """A picture, and the largest face in it where the variant reads faces."""

    image: Image.Image
    face: FaceFeatures | None


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """The frozen encoders of what a variant reads."""

    variant: Variant
    image_encoder: ImageEncoder
    face_encoder: FaceEncoder | None

    @classmethod
    def load(
        cls, variant: Variant, image_encoder: str, face_encoder: str | None, device: str = "cpu"
    ) -> "FeatureEncoder":
        """Load both by name.

        Raises:
            BaseModelError: One of them cannot be found.
        """
        faces = None if face_encoder is None else load_face_encoder(face_encoder)
        return cls(variant, load_image_encoder(image_encoder, device), faces)

    def read(self, path: Path) -> SeenPicture:
        """A picture from its file.

        Raises:
            ImageError: It cannot be read, or shows no face and the variant reads one.
        """
        image = read_image(path)
        if self.face_encoder is None:
            return SeenPicture(image, None)
        is_normalised = not reads_raw_identity(self.variant)
        return SeenPicture(
            image, face_features(self.face_encoder, [image], is_normalised=is_normalised, names=[str(path)])
        )

    def encode(self, pictures: Sequence[SeenPicture]) -> dict[str, Tensor]:
        """Columns of a shard, on the CPU; hidden states as float16, for they are by far the largest."""
        features: dict[Feature, Tensor] = {}
        faces = [picture.face for picture in pictures if picture.face is not None]
        if faces:
            features["identity"] = torch.cat([face.identity for face in faces])
        if set(self.variant.inputs) - {"identity"}:
            shown = [face.crops[0] for face in faces] or [picture.image for picture in pictures]
            seen = self.image_encoder.look(shown)
            features |= {"image_embeds": seen.image_embeds, "hidden_states": seen.hidden_states.half()}
        return {COLUMNS[name]: features[name].cpu() for name in self.variant.inputs}

    def of_nothing(self) -> dict[Feature, Tensor]:
        """What adapters of the variant take for no picture, float32 [1, ...]: see `core.image_prompts.features`."""
        none: dict[Feature, Tensor] = {"image_embeds": torch.zeros(1, self.image_encoder.embed_dim)}
        if "hidden_states" in self.variant.inputs:
            none["hidden_states"] = self.image_encoder.look_at_nothing().hidden_states.cpu()
        if self.face_encoder is not None:
            none["identity"] = torch.zeros(1, self.face_encoder.dim)
        return {name: none[name] for name in self.variant.inputs}


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
