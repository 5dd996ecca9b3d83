"""Face encoders by name."""

from pathlib import Path

from nigaoe.core.errors import BaseModelError
from nigaoe.core.faces.dlib import load_dlib
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.faces.insightface import ROOT, load_insightface
from nigaoe.core.faces.onnx import load_onnx


def load_face_encoder(name: str) -> FaceEncoder:
    """Load 'insightface', 'insightface:ROOT' of its models, 'dlib', or 'onnx:FILE', for which dlib finds the faces.

    Raises:
        BaseModelError: No such encoder, or its package or its models are not there.
    """
    kind, _, where = name.partition(":")
    if name == "dlib":
        return load_dlib()
    if kind == "insightface" and (where or name == kind):
        return load_insightface(Path(where) if where else ROOT)
    if kind == "onnx" and where:
        return load_onnx(Path(where).expanduser(), load_dlib())
    raise BaseModelError(
        f"there is no face encoder {name!r}; choose 'insightface', 'insightface:ROOT', 'onnx:FILE' or 'dlib'"
    )
