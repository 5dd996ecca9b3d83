"""What a Frechet distance looks through. An Inception with FID's own weights plugs in here, and may be called FID."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32
from PIL import Image


class FeatureExtractor(Protocol):
    """Pictures to features."""

    @property
    def name(self) -> str:
        """Names the metric: `fd_<name>`."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights; distances under different ones are not comparable."""

    def features(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "N D"]:
        """One row per picture."""
