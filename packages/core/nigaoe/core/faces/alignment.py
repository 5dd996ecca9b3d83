"""A face turned, scaled and moved so that its eyes, nose and mouth lie where recognisers were trained to find them.

Points are (x, y) in pixels, the centre of the first pixel being (0, 0), as detectors give them.
"""

import numpy as np
from PIL import Image

ARCFACE_SIDE = 112
"""Side in pixels of what ArcFace recognisers read."""

_ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def template(side: int) -> np.ndarray:
    """Where left eye, right eye, nose tip, left and right corner of the mouth, as seen, belong in a square: [5, 2].

    As insightface's `estimate_norm`: a side that 112 does not divide is taken for ArcFace's 128-pixel frame, which
    leaves more room on either side.
    """
    if side % ARCFACE_SIDE == 0:
        return _ARCFACE_POINTS * (side / ARCFACE_SIDE)
    return (_ARCFACE_POINTS + (8.0, 0.0)) * (side / 128)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift [2, 3] that takes points [N, 2] nearest to others, by least squares (Umeyama 1991).

    In the plane, without reflections, that is the regression of one complex variable on another.
    """
    z, w = (points.astype(np.float64) @ (1.0, 1.0j) for points in (source, target))
    centred = z - z.mean()
    spread = float(np.vdot(centred, centred).real)
    assert spread > 0, "all points are the same"
    turn = np.vdot(centred, w - w.mean()) / spread
    shift = w.mean() - turn * z.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The similarity [2, 3] that undoes one."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [N, 2] after a similarity [2, 3]."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def align(image: Image.Image, landmarks: np.ndarray, side: int = ARCFACE_SIDE) -> Image.Image:
    """A square of one face as insightface's `norm_crop` cuts it: bilinear, black outside the picture.

    `landmarks` [5, 2] in the order of `template`. FaceID-Plus reads a crop of side 224 for SD and 256 for SDXL.
    """
    back = inverse(similarity(landmarks, template(side)))
    # Pillow counts from the corner of the first pixel and not from its centre.
    back[:, 2] += 0.5 - back[:, :2].sum(1) / 2
    data = tuple(float(value) for value in back.ravel())
    square = (side, side)
    return image.convert("RGB").transform(square, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
