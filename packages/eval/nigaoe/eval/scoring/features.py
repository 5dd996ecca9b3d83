"""What metrics look through. An Inception with FID's own weights plugs in here, and its distance may be called FID."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image


class Named(Protocol):
    """A network that figures are seen through."""

    @property
    def name(self) -> str:
        """Names the metrics: `fd_<name>`, `<name>_i`."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights; figures under different ones are not comparable."""


class FeatureExtractor(Named, Protocol):
    """Pictures to features."""

    @property
    def dim(self) -> int:
        """How many features."""

    @property
    def preprocessing(self) -> str:
        """How a picture becomes its input: size, filter, range, in words that stay the same."""

    def features(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "N D"]:
        """One row per picture."""


class TextImageEncoder(FeatureExtractor, Protocol):
    """Pictures and texts to one space."""

    def text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """One row per text."""

    def are_cut(self, texts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which texts are longer than what is read of them."""


def setting_of(network: Named) -> str:
    """Name and hash of a network, or of a space, as figures tell what they were seen through."""
    return f"{network.name} {network.fingerprint}"
