"""An ArcFace recogniser from an ONNX file; another encoder finds the faces for it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.errors import BaseModelError
from nigaoe.core.faces.alignment import ARCFACE_SIDE, align
from nigaoe.core.faces.encoder import Face, FaceEncoder
from nigaoe.core.packages import import_optional


class OnnxFaceEncoder:
    """Reads aligned RGB squares, (x - 127.5) / 127.5, as ArcFace networks exported from PyTorch do.

    Networks that normalise inside themselves, as older ones exported from MXNet, are not for it.
    """

    def __init__(self, path: Path, session: Any, detector: FaceEncoder) -> None:
        """`load_onnx` makes the session.

        Raises:
            BaseModelError: The network is no face recogniser by its shapes.
        """
        self.name = f"onnx:{path}"
        self._session, self._detector = session, detector
        self._input, *others = session.get_inputs()
        shape = list(self._input.shape)
        if others or len(shape) != 4 or shape[1] != 3:
            raise BaseModelError(
                f"face encoder {self.name!r} reads inputs of shape {[list(i.shape) for i in session.get_inputs()]}, "
                "a face recogniser reads one of [N, 3, S, S]; give the ONNX file of a recogniser"
            )
        self._side = shape[2] if isinstance(shape[2], int) else ARCFACE_SIDE
        answer = self._run(Image.new("RGB", (self._side, self._side)))
        if answer.ndim != 2 or len(answer) != 1:
            raise BaseModelError(
                f"face encoder {self.name!r} answers one picture with shape {list(answer.shape)}, "
                "a face recogniser with [1, I]; give the ONNX file of a recogniser"
            )
        self.dim = int(answer.shape[1])

    def find(self, image: Image.Image) -> list[Face]:
        return [replace(face, raw_identity=self._identify(image, face)) for face in self._detector.find(image)]

    def _identify(self, image: Image.Image, face: Face) -> Tensor:
        return torch.from_numpy(self._run(align(image, face.landmarks, self._side))[0].astype(np.float32))

    def _run(self, square: Image.Image) -> np.ndarray:
        pixels = (np.asarray(square, dtype=np.float32) - 127.5) / 127.5
        feed = {self._input.name: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
        return np.asarray(self._session.run(None, feed)[0])


def load_onnx(path: Path, detector: FaceEncoder) -> OnnxFaceEncoder:
    """Load a recogniser, on CUDA where onnxruntime has it; `detector` gives boxes and landmarks.

    Raises:
        BaseModelError: onnxruntime is not installed, or the file is missing or is no face recogniser.
    """
    ort = import_onnxruntime(f"onnx:{path}", "onnx")
    if not path.is_file():
        raise BaseModelError(f"face encoder 'onnx:{path}' names a file that does not exist; mend the path")
    failures = ort.capi.onnxruntime_pybind11_state
    try:
        session = ort.InferenceSession(str(path), providers=providers(ort))
    except (failures.Fail, failures.InvalidProtobuf, failures.InvalidGraph, failures.NotImplemented) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"face encoder 'onnx:{path}' cannot be loaded ({reason}); give the ONNX file of a face recogniser"
        ) from None
    return OnnxFaceEncoder(path, session, detector)


def import_onnxruntime(encoder: str, extra: str) -> Any:
    """The package onnxruntime, with its telemetry off.

    Raises:
        BaseModelError: It is not installed.
    """
    # Official builds send usage to their maker unless this is set before the first import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_optional("onnxruntime", encoder, extra)


def providers(ort: Any) -> list[str]:
    """CUDA where this build of onnxruntime has it, then the CPU."""
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in ort.get_available_providers()]
