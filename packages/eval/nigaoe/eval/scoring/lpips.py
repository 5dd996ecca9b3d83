"""LPIPS with VGG16 (Zhang et al. 2018, arXiv 1801.03924): distance of two pictures in a network's eyes, from 0 up.

Its linear heads come with torchmetrics, its trunk, torchvision's VGG16 of ImageNet, with no package: only that very
file is taken, for through another trunk the figure would not be LPIPS. N pictures, H x W pixels.
"""

from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from nigaoe.core.errors import BaseModelError, ImageError
from nigaoe.eval.scoring.pictures import Pictures, pictures
from nigaoe.eval.scoring.weights import file_fingerprint

TRUNK_SHA256 = "397923af"
"""Beginning of the SHA-256 of torchvision's `vgg16-397923af.pth`."""

_STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-8


class Vgg16Trunk(nn.Module):
    """Convolutions of VGG16, by the names that torchvision gives them: `features.0` to `features.28`."""

    def __init__(self) -> None:
        super().__init__()
        layers, index = OrderedDict[str, nn.Module](), 0
        for stage in _STAGES:
            for a, b in zip(stage, stage[1:], strict=False):
                layers[f"{index}"] = nn.Conv2d(a, b, 3, padding=1)
                # A rectifier after each convolution, and a pool after the stage, have numbers of their own.
                index += 2
            index += 1
        self.features = nn.Sequential(layers)

    def forward(self, x: Float32[Tensor, "N 3 H W"]) -> list[Tensor]:
        """Last activations of each of the five stages."""
        convolutions, outputs = iter(self.features), []
        for i, stage in enumerate(_STAGES):
            x = max_pool2d(x, 2) if i else x
            for _ in stage[1:]:
                x = relu(next(convolutions)(x))
            outputs.append(x)
        return outputs


@dataclass(frozen=True, eq=False)
class Lpips:
    """Trunk and heads."""

    trunk: Vgg16Trunk
    heads: list[Tensor]
    """Weights per channel of each stage, [1, C, 1, 1]."""
    fingerprint: str
    name: str = "lpips"

    @classmethod
    def load(cls, trunk: Path) -> "Lpips":
        """Load with the file `vgg16-397923af.pth`, which torchvision downloads.

        Raises:
            BaseModelError: The file is missing or is another one.
        """
        if not trunk.is_file():
            raise BaseModelError(f"LPIPS needs torchvision's 'vgg16-{TRUNK_SHA256}.pth', not there as {str(trunk)!r}")
        fingerprint = file_fingerprint(trunk)
        if not fingerprint.startswith(TRUNK_SHA256):
            raise BaseModelError(
                f"{str(trunk)!r} has hash {fingerprint!r} and is not torchvision's 'vgg16-{TRUNK_SHA256}.pth'; "
                "through another trunk the figure would not be LPIPS"
            )
        network = Vgg16Trunk()
        # The file holds VGG's classifier, too.
        network.load_state_dict(torch.load(trunk, map_location="cpu", weights_only=True), strict=False)
        return cls(network.eval().requires_grad_(False), read_heads(), fingerprint)

    @torch.no_grad()
    def distances(self, images: Pictures, others: Pictures) -> Float64[np.ndarray, " N"]:
        """Distance of each picture to the one at its place.

        Raises:
            ImageError: A picture is refused, or the two differ in size.
        """
        rows = []
        for a, b in zip(pictures(images), pictures(others), strict=True):
            if a.size != b.size:
                raise ImageError(
                    f"LPIPS compares pictures of one size, these have {a.size} and {b.size} px; resize one"
                )
            both = torch.from_numpy(np.stack([np.asarray(a, np.float32), np.asarray(b, np.float32)])).permute(
                0, 3, 1, 2
            )
            rows.append(self._distance(both / 127.5 - 1))
        return np.array(rows, np.float64)

    def _distance(self, both: Float32[Tensor, "2 3 H W"]) -> float:
        seen = self.trunk((both - torch.tensor(_SHIFT)[:, None, None]) / torch.tensor(_SCALE)[:, None, None])
        total = 0.0
        for states, head in zip(seen, self.heads, strict=True):
            unit = states / (states.square().sum(1, keepdim=True) + _EPS).sqrt()
            total += float((head * (unit[:1] - unit[1:]).square()).sum(1).mean())
        return total


def read_heads() -> list[Tensor]:
    """The linear heads for VGG16 that torchmetrics carries."""
    spec = find_spec("torchmetrics")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    # Saved on CUDA.
    heads = torch.load(path, map_location="cpu", weights_only=True)
    return [heads[f"lin{i}.model.1.weight"] for i in range(len(_STAGES))]
