"""FID's own Inception (Heusel et al. 2017, arXiv 1706.08500), by the file of its weights in torch.

Only that very file is taken, for through another network the distance would not be FID. The architecture is
torch-fidelity's, which also resizes as TensorFlow 1 did. N pictures, H x W pixels.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from nigaoe.core.errors import BaseModelError
from nigaoe.eval.scoring.pictures import Pictures, pictures
from nigaoe.eval.scoring.weights import file_fingerprint

FID_INCEPTION = "6726825d"
"""Beginning of the SHA-256 of `pt_inception-2015-12-05-6726825d.pth`, torch-fidelity's `weights-inception-...`."""

_FILE = f"pt_inception-2015-12-05-{FID_INCEPTION}.pth"
_BATCH = 32
"""Pictures at a time, lest memory grow with their number."""


@dataclass(frozen=True, eq=False)
class FidInception:
    """The network with its preprocessing; a `FeatureExtractor` through which distances may be called FID."""

    network: Any
    device: torch.device
    fingerprint: str
    name: str = "inception"
    dim: int = 2048
    preprocessing: str = "299 x 299 px bilinear as in TensorFlow 1, less 128, over 128"

    @classmethod
    def load(cls, file: Path, device: str | torch.device = "cpu") -> "FidInception":
        """Load from `pt_inception-2015-12-05-6726825d.pth`, which pytorch-fid and torch-fidelity download.

        Raises:
            BaseModelError: The file is missing or is another one, or torch-fidelity cannot be imported.
        """
        if not file.is_file():
            raise BaseModelError(f"FID needs {_FILE!r}, not there as {str(file)!r}; pytorch-fid's releases have it")
        fingerprint = file_fingerprint(file)
        if not fingerprint.startswith(FID_INCEPTION):
            raise BaseModelError(
                f"{str(file)!r} has hash {fingerprint!r} and is not {_FILE!r}; "
                "through another network the distance would not be FID"
            )
        target = torch.device(device)
        return cls(_network(file).to(target), target, fingerprint)

    @torch.no_grad()
    def features(self, images: Pictures) -> Float32[np.ndarray, "N 2048"]:
        """The last pool's activations."""
        seen = pictures(images)
        rows = np.zeros((len(seen), self.dim), np.float32)
        # The network resizes by itself, so only pictures of one size go together.
        for size in sorted({image.size for image in seen}):
            places = [i for i, image in enumerate(seen) if image.size == size]
            for start in range(0, len(places), _BATCH):
                part = places[start : start + _BATCH]
                pixels = _pixels([seen[i] for i in part]).to(self.device)
                rows[part] = self.network(pixels)[0].float().cpu().numpy()
        return rows


def _pixels(images: list[Image.Image]) -> UInt8[Tensor, "N 3 H W"]:
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy())


def _network(file: Path) -> Any:
    if find_spec("torch_fidelity") is None:
        raise BaseModelError(
            "FID's Inception needs the package 'torch-fidelity', which is not installed; "
            "run `pip install torch-fidelity` where its torchvision fits your torch"
        )
    try:
        extractor = import_module("torch_fidelity").FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"FID's Inception needs 'torch-fidelity', which cannot be imported ({reason}); "
            "install the torchvision that fits your torch"
        ) from None
    # Refuses all but tensors. torch-fidelity would run whatever is pickled in there, and the hash's beginning is short.
    torch.load(file, map_location="cpu", weights_only=True)
    return extractor("inception", ["2048"], str(file))
