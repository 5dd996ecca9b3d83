"""Balls around samples that reach to their k-th neighbour: the manifolds of precision, recall, density and coverage.

N samples of x, M of y, D features. All distances are squared, Euclidean, in float64.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from nigaoe.core.errors import DataError

_ROWS = 1024
"""Of a distance matrix at a time."""
_ROUNDING = 1e-13
"""Of the squared lengths: a distance below this is 0. Copies must be at distance 0 from one another."""


def distance_blocks(
    x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"]
) -> Iterator[tuple[slice, Float64[np.ndarray, "R M"]]]:
    """Rows of the matrix of distances, block by block."""
    x_lengths, y_lengths = (x**2).sum(axis=1), (y**2).sum(axis=1)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, min(start + _ROWS, len(x)))
        lengths = x_lengths[rows, None] + y_lengths
        distances = lengths - 2 * x[rows] @ y.T
        distances[distances < _ROUNDING * lengths] = 0.0
        yield rows, distances


def radii(x: Float64[np.ndarray, "N D"], k: int) -> Float64[np.ndarray, " N"]:
    """Distance of each sample to its k-th neighbour, itself not counted.

    Raises:
        DataError: There are not more than k samples.
    """
    if not 1 <= k < len(x):
        raise DataError(f"the {k}-th neighbour needs more than {k} samples, there are {len(x)}")
    found = np.empty(len(x))
    for rows, distances in distance_blocks(x, x):
        places = np.arange(rows.start, rows.stop)
        distances[places - rows.start, places] = np.inf
        found[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return found


def balls_around(
    points: Float64[np.ndarray, "N D"], centres: Float64[np.ndarray, "M D"], radius: Float64[np.ndarray, " M"]
) -> Float64[np.ndarray, " N"]:
    """In how many balls each point lies, their surface included."""
    found = np.empty(len(points))
    for rows, distances in distance_blocks(points, centres):
        found[rows] = (distances <= radius).sum(axis=1)
    return found


def reached(
    centres: Float64[np.ndarray, "N D"], radius: Float64[np.ndarray, " N"], points: Float64[np.ndarray, "M D"]
) -> Float64[np.ndarray, " N"]:
    """1 for each ball that holds a point, else 0."""
    found = np.empty(len(centres))
    for rows, distances in distance_blocks(centres, points):
        found[rows] = distances.min(axis=1) <= radius[rows]
    return found
