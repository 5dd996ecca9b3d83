"""From pictures of people to what identity adapters read: identities, and aligned crops for the CLIP encoder."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.inspection import ENCODERS
from nigaoe.core.errors import AdapterError
from nigaoe.core.faces.alignment import align
from nigaoe.core.faces.encoder import FaceEncoder, largest_face
from nigaoe.core.pixels import ImageLike, as_pil

CROP_SIDE = 224
SDXL_CROP_SIDE = 256
"""Sides in pixels of the crops that published FaceID-Plus adapters were trained with."""

_SDXL_TEXT_DIM = 2048


class FaceFeatures(NamedTuple):
    """The largest face of each picture."""

    identity: Tensor
    """Float32 [B, I]."""
    crops: list[Image.Image]
    """One aligned square each, for the CLIP encoder of FaceID-Plus or of an adapter trained on faces."""


def face_features(
    encoder: FaceEncoder,
    images: Sequence[ImageLike],
    *,
    side: int = CROP_SIDE,
    is_normalised: bool = True,
    names: Sequence[str] | None = None,
) -> FaceFeatures:
    """Look at the largest face of each picture; `names` are what errors call the pictures.

    Raises:
        FaceNotFoundError: A picture without a face.
        AdapterError: No pictures.
    """
    if not images:
        raise AdapterError("a face prompt needs at least one picture and got none; give one")
    pictures = [as_pil(image) for image in images]
    called = names or [f"picture {i + 1} of {len(pictures)}" for i in range(len(pictures))]
    faces = [largest_face(encoder, image, name) for image, name in zip(pictures, called, strict=True)]
    identities = [face.identity if is_normalised else face.raw_identity for face in faces]
    crops = [align(image, face.landmarks, side) for image, face in zip(pictures, faces, strict=True)]
    return FaceFeatures(torch.stack(identities), crops)


def require_face_encoder(adapter: IPAdapter, encoder: FaceEncoder) -> None:
    """Refuse a recogniser that cannot give what the adapter was trained on.

    Raises:
        AdapterError: Its identities have another width; those of the same width are taken on trust.
    """
    width = adapter.widths.features.get("identity", encoder.dim)
    if width != encoder.dim:
        cure = ENCODERS.get(("identity", width), "the recogniser that it was trained with")
        raise AdapterError(
            f"the adapter reads an identity of width {width}, face encoder {encoder.name!r} gives {encoder.dim}; "
            f"use {cure}"
        )


def adapter_face_features(
    adapter: IPAdapter, encoder: FaceEncoder, images: Sequence[ImageLike], names: Sequence[str] | None = None
) -> FaceFeatures:
    """Look at faces as the adapter's variant and base want them.

    `image_features(adapter, image_encoder, seen.crops, seen.identity)` makes features of it. A Portrait takes several
    pictures of one person as `seen.identity[None]`, [1, F, I].

    Raises:
        FaceNotFoundError: A picture without a face.
        AdapterError: No pictures, or a recogniser of another width.
    """
    require_face_encoder(adapter, encoder)
    is_sdxl = adapter.widths.cross_attention_dim == _SDXL_TEXT_DIM
    return face_features(
        encoder,
        images,
        side=SDXL_CROP_SIDE if is_sdxl else CROP_SIDE,
        is_normalised=adapter.variant.name != "portrait-unnormalised",
        names=names,
    )
