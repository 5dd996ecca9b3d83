"""What features are of. Figures and states from two spaces never mix.

N samples, D features.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.eval.scoring.features import FeatureExtractor
from nigaoe.eval.scoring.inception import FID_INCEPTION


@dataclass(frozen=True)
class FeatureSpace:
    """An extractor, its weights, and what it was given."""

    extractor: str
    """Ends the names of figures, as in `fd_clip`."""
    dim: int
    """D."""
    fingerprint: str
    """Hash of the weights."""
    preprocessing: str
    """Names or hashes how a picture becomes the network's input: size, filter, range."""
    dtype: str = "float32"
    """In which the network computes."""

    @property
    def name(self) -> str:
        """The extractor's, so that `setting_of` tells of a space what it tells of a network."""
        return self.extractor

    def figure_name(self, published: str, own: str) -> str:
        """The published name only on the features of FID's Inception, for which it stands; else `<own>_<extractor>`."""
        return published if self.fingerprint.startswith(FID_INCEPTION) else f"{own}_{self.extractor}"

    def require_same(self, other: "FeatureSpace") -> None:
        """Raises DataError that names what differs."""
        mine, theirs = asdict(self), asdict(other)
        differing = [f"{key} {mine[key]!r} and {theirs[key]!r}" for key in mine if mine[key] != theirs[key]]
        if differing:
            raise DataError(f"features of different spaces cannot be merged or compared: {', '.join(differing)}")

    def checked(self, features: Tensor | Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """Features as an array, float32 or, for a network in double precision, float64.

        Raises:
            DataError: Of another shape or dtype than this space's, or not finite.
        """
        dtype = str(features.dtype).removeprefix("torch.")
        if features.ndim != 2 or features.shape[1] != self.dim or dtype != self.dtype:
            raise DataError(
                f"features are {dtype} of shape {list(features.shape)}, expected {self.dtype} of shape [N, {self.dim}]"
            )
        kept = torch.float64 if self.dtype == "float64" else torch.float32
        if isinstance(features, Tensor):
            x = features.detach().to("cpu", kept).numpy()
        else:
            x = np.asarray(features, np.float64 if self.dtype == "float64" else np.float32)
        if not np.isfinite(x).all():
            rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
            raise DataError(f"features must be finite, {len(rows)} rows are not; the first is row {rows[0]}")
        return x


def space_of(extractor: FeatureExtractor) -> FeatureSpace:
    """The space that an extractor's features are of."""
    return FeatureSpace(extractor.name, extractor.dim, extractor.fingerprint, extractor.preprocessing)
