"""Who is in a picture: faces and what a recogniser says of them, whichever recogniser that is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from nigaoe.core.errors import ImageError
from nigaoe.core.pixels import ImageLike, as_pil


class FaceNotFoundError(ImageError):
    """A picture shows no face that an encoder can find."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face of a picture."""

    raw_identity: Tensor
    """What the recogniser says, float32 [I], not normalised; `portrait-unnormalised` reads this."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels; may reach beyond the picture."""
    landmarks: np.ndarray
    """Left eye, right eye, nose tip, left and right corner of the mouth as seen, [5, 2] in pixels."""
    score: float
    """The detector's own measure of certainty; not comparable between encoders."""

    @property
    def identity(self) -> Tensor:
        """The recogniser's embedding of length 1, float32 [I]."""
        return normalize(self.raw_identity, dim=0)

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


class FaceEncoder(Protocol):
    """A face detector and a face recogniser. One thread at a time."""

    @property
    def name(self) -> str:
        """As `load_face_encoder` takes it."""

    @property
    def dim(self) -> int:
        """I of the identities."""

    def find(self, image: Image.Image) -> list[Face]:
        """All faces of an RGB picture, the largest first; none where there is none."""


def largest_first(faces: Iterable[Face]) -> list[Face]:
    """Faces by the area of their boxes."""
    return sorted(faces, key=lambda face: face.area, reverse=True)


def largest_face(encoder: FaceEncoder, image: ImageLike, name: str = "the picture") -> Face:
    """The largest face of a picture; `name` is what the error calls it.

    Raises:
        FaceNotFoundError: There is none.
        ImageError: Not a picture that `as_pil` takes.
    """
    faces = encoder.find(as_pil(image))
    if not faces:
        raise FaceNotFoundError(
            f"face encoder {encoder.name!r} finds no face in {name!r}; "
            "give a picture of one person who faces the camera, with some room around the head"
        )
    return faces[0]
