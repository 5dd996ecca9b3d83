"""Faces by insightface: the encoder that published identity adapters were trained with, where its models are there.

Nothing is downloaded: the models have a licence of their own (non-commercial research), which is the user's to accept.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nigaoe.core.errors import BaseModelError
from nigaoe.core.faces.alignment import ARCFACE_SIDE, align
from nigaoe.core.faces.encoder import Face, largest_first
from nigaoe.core.faces.onnx import import_onnxruntime, providers
from nigaoe.core.packages import import_optional

ROOT = Path("~/.insightface")
"""Where insightface keeps its models."""

PACKAGE = "buffalo_l"

_DETECTION_SIDES_PX = range(640, 256, -64)
"""Squares into which a picture is fitted until a face is found, as ComfyUI's IPAdapter does: a face that fills the
picture is found in the smaller ones only."""


class InsightFaceEncoder:
    """SCRFD detector and ArcFace recogniser of one model package."""

    name = "insightface"
    dim = 512

    def __init__(self, detector: Any, recogniser: Any) -> None:
        """`load_insightface` makes them."""
        self._detector, self._recogniser = detector, recogniser

    def find(self, image: Image.Image) -> list[Face]:
        # insightface works on BGR, as OpenCV reads.
        bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        for side in _DETECTION_SIDES_PX:
            boxes, landmarks = self._detector.detect(bgr, input_size=(side, side))
            if len(boxes):
                return largest_first(self._face(image, *found) for found in zip(boxes, landmarks, strict=True))
        return []

    def _face(self, image: Image.Image, box: np.ndarray, landmarks: np.ndarray) -> Face:
        square = np.asarray(align(image, landmarks, ARCFACE_SIDE))
        identity = self._recogniser.get_feat(np.ascontiguousarray(square[:, :, ::-1]))[0]
        left, top, right, bottom, score = (float(value) for value in box)
        raw = torch.from_numpy(np.asarray(identity, dtype=np.float32))
        return Face(raw, (left, top, right, bottom), landmarks.astype(np.float64), score)


def load_insightface(root: Path = ROOT) -> InsightFaceEncoder:
    """Load buffalo_l from `root`/models/buffalo_l, or any model package from its own folder.

    Raises:
        BaseModelError: A package is not installed, or the models are not there.
    """
    ort = import_onnxruntime("insightface", "insightface")
    insightface = import_optional("insightface", "insightface", "insightface")
    folder = _models(root.expanduser())
    parts = ["detection", "recognition"]
    try:
        app = insightface.app.FaceAnalysis(name=str(folder), allowed_modules=parts, providers=providers(ort))
    except AssertionError:
        # So insightface says that there is no detector.
        raise _incomplete(folder) from None
    if "recognition" not in app.models:
        raise _incomplete(folder)
    app.prepare(ctx_id=0, det_size=(640, 640))
    return InsightFaceEncoder(app.det_model, app.models["recognition"])


def _models(root: Path) -> Path:
    """The folder of a model package; insightface itself would download what is missing."""
    usual = root / "models" / PACKAGE
    for folder in (usual, root):
        if any(folder.glob("*.onnx")):
            return folder.resolve()
    raise BaseModelError(
        f"face encoder 'insightface' needs the ONNX files of {PACKAGE!r} in {str(usual)!r} and finds none; "
        "unpack them there from insightface's model zoo, or name another root as 'insightface:ROOT'"
    )


def _incomplete(folder: Path) -> BaseModelError:
    return BaseModelError(
        f"face encoder 'insightface' finds no detector or no recogniser in {str(folder)!r}; "
        f"unpack the whole package there, as {PACKAGE!r}"
    )
