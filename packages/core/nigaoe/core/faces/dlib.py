"""Faces by dlib, whose models come as a Python package: the encoder that works without any download of its own.

Its identities have 128 numbers, so they serve adapters trained with them; published ones read ArcFace's 512. The
package also has a 68-point landmark model, which the licence of its training data (iBUG 300-W) keeps to research: it is
not used.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from nigaoe.core.errors import BaseModelError
from nigaoe.core.faces.alignment import inverse, moved, similarity, template
from nigaoe.core.faces.encoder import Face, largest_first
from nigaoe.core.packages import import_optional, require_installed

_DETECTION_SIDES_PX = (640, 320, 1280)
"""Longer sides at which a picture is searched until a face is found. The detector knows faces of 80 pixels and more; a
face that fills the picture is easier to find in a small one."""

_NOSE_BASE = 0.7736
"""How far below the eyes the base of the nose lies, in distances between the eyes, in the mean face of dlib's
`get_face_chip_details`."""

_FRAME = template(112)
_SEEN = np.stack([*_FRAME[:2], _FRAME[:2].mean(0) + (0.0, _NOSE_BASE * (_FRAME[1, 0] - _FRAME[0, 0]))])
"""Where the eyes and the base of the nose lie in ArcFace's frame."""


class DlibFaceEncoder:
    """HOG detector, 5-point landmarks and the ResNet of Davis King's `dlib_face_recognition_resnet_model_v1` (CC0)."""

    name = "dlib"
    dim = 128

    def __init__(self, detector: Any, predictor: Any, recogniser: Any) -> None:
        """`load_dlib` makes them."""
        self._detector, self._predictor, self._recogniser = detector, predictor, recogniser

    def find(self, image: Image.Image) -> list[Face]:
        longest = max(image.size)
        for side in _DETECTION_SIDES_PX:
            # Enlarging a small picture still further finds nothing that is there.
            if side > max(longest, _DETECTION_SIDES_PX[0]):
                continue
            faces = list(self._search(image, side / longest))
            if faces:
                return largest_first(faces)
        return []

    def _search(self, image: Image.Image, ratio: float) -> Iterator[Face]:
        """Faces of a picture seen `ratio` times as large."""
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        searched = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        # Landmarks are whole pixels, so a small picture is read as enlarged for the search.
        read, zoom = (searched, ratio) if ratio > 1 else (np.asarray(image), 1.0)
        boxes, scores, _ = self._detector.run(searched, 0, 0.0)
        for box, score in zip(boxes, scores, strict=True):
            edges = [box.left(), box.top(), box.right(), box.bottom()]
            shape = self._predictor(read, type(box)(*(round(edge * zoom / ratio) for edge in edges)))
            points = np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)
            identity = np.asarray(self._recogniser.compute_face_descriptor(read, shape), dtype=np.float32)
            left, top, right, bottom = (edge / ratio for edge in edges)
            landmarks = _five_points((points + 0.5) / zoom - 0.5)
            yield Face(torch.from_numpy(identity), (left, top, right, bottom), landmarks, float(score))


def _five_points(points: np.ndarray) -> np.ndarray:
    """ArcFace's points from dlib's [5, 2]: right eye's outer and inner corner, left eye's, base of the nose.

    dlib sees no mouth and no tip of the nose. The similarity that best takes its eye centres and nose base to theirs in
    ArcFace's frame, undone, carries all five points to the picture, so that `align` repeats just that similarity.
    """
    seen = np.stack([points[2:4].mean(0), points[0:2].mean(0), points[4]])
    return moved(_FRAME, inverse(similarity(seen, _SEEN)))


def load_dlib() -> DlibFaceEncoder:
    """Load from the packages `dlib-bin` and `face_recognition_models`.

    Raises:
        BaseModelError: One of them is not installed or lacks a model.
    """
    dlib = import_optional("dlib", "dlib", "dlib")
    # Importing it fails: it asks for pkg_resources, which setuptools no longer has. Its files are all that is needed.
    folder = require_installed("face_recognition_models", "dlib", "dlib") / "models"
    landmarks = folder / "shape_predictor_5_face_landmarks.dat"
    recogniser = folder / "dlib_face_recognition_resnet_model_v1.dat"
    for file in (landmarks, recogniser):
        if not file.is_file():
            raise BaseModelError(
                f"face encoder 'dlib' needs {file.name!r} of face_recognition_models, which has no such file; "
                'reinstall it with `pip install --force-reinstall "nigaoe[dlib]"`'
            )
    return DlibFaceEncoder(
        dlib.get_frontal_face_detector(),
        dlib.shape_predictor(str(landmarks)),
        dlib.face_recognition_model_v1(str(recogniser)),
    )
