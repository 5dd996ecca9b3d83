"""MS-SSIM: SSIM over several scales (Wang, Simoncelli & Bovik 2003), 0 to 1, higher is nearer.

The paper's five scales need sides of 176 px (torchmetrics says 160 and fails at 161). Smaller pictures take fewer
scales, whose weights are the paper's first ones made to sum to 1: another figure, by another name, `ms_ssim_3`.
Anti-correlated scales count as 0, as torchmetrics' "relu" does it: a root of a negative number is none.

H, W pixels, C channels.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image

from nigaoe.eval.metrics.ssim import WINDOW, Ssim, similarity_maps

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, finest first; table 1 of the paper."""


def min_side(scales: int) -> int:
    """Shortest side in pixels that a number of scales can be taken of: the window must fit at the coarsest.

    torchmetrics asks for 11 * (scales - 1)^2, which is too much for four scales and too little for two.
    """
    return WINDOW << (scales - 1)


def scales_for(side_px: int) -> int:
    """As many scales as pictures with this shortest side allow, 5 at most.

    Raises:
        ValueError: Too small for any.
    """
    fitting = [scales for scales in range(1, len(BETAS) + 1) if min_side(scales) <= side_px]
    if not fitting:
        raise ValueError(f"a side of {side_px!r} px is less than the {WINDOW} px of the window")
    return fitting[-1]


class MsSsim(Ssim):
    """Multi-scale structural similarity; `ms_ssim` with five scales, else `ms_ssim_<scales>`."""

    plot_lower_bound = 0.0

    def __init__(self, scales: int = len(BETAS), **kwargs: Any) -> None:
        """`scales`: the same for all pictures, see `scales_for`."""
        if not 1 <= scales <= len(BETAS):
            raise ValueError(f"scales {scales!r} is outside 1..{len(BETAS)}")
        super().__init__("ms_ssim" if scales == len(BETAS) else f"ms_ssim_{scales}", **kwargs)
        used = BETAS[:scales]
        self.betas = used if scales == len(BETAS) else tuple(beta / sum(used) for beta in used)
        self.min_side = min_side(scales)

    def _too_small(self, image: Image.Image) -> str:
        side = min(image.size)
        cure = f"; use MsSsim(scales={scales_for(side)})" if side >= WINDOW else ""
        return f"{super()._too_small(image)}{cure}"

    def _score(self, image: Float64[np.ndarray, "H W C"], reference: Float64[np.ndarray, "H W C"]) -> float:
        value, border = 1.0, WINDOW // 2
        for scale, beta in enumerate(self.betas):
            if scale:
                image, reference = _halved(image), _halved(reference)
            similarity, contrast = similarity_maps(image, reference)
            # Only the coarsest scale compares brightness; it alone keeps its border, as in torchmetrics.
            is_coarsest = scale == len(self.betas) - 1
            part = similarity if is_coarsest else contrast[border:-border, border:-border]
            value *= max(0.0, float(part.mean())) ** beta
        return value


def _halved(z: Float64[np.ndarray, "H W C"]) -> Float64[np.ndarray, "h w C"]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = z.shape[0] // 2 * 2, z.shape[1] // 2 * 2
    even = z[:height, :width]
    return np.asarray(even.reshape(height // 2, 2, width // 2, 2, -1).mean(axis=(1, 3)))
