"""Frechet distance of two Gaussians (Dowson & Landau 1982). Called FID only on the features of FID's Inception."""

import numpy as np
from jaxtyping import Float64

from nigaoe.eval.scoring.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2.

    The last trace is the nuclear norm of F_a F_b^T for factors S = F^T F. Unlike the square root of a product it stays
    exact where there are fewer samples than features and the covariances have no full rank.
    """
    if a.dim != b.dim:
        raise ValueError(f"distributions of {a.dim} and of {b.dim} features have no distance")
    factor_a, factor_b = _factor(a), _factor(b)
    overlap = float(np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum())
    shift = a.mean - b.mean
    traces = float((factor_a**2).sum() + (factor_b**2).sum())
    return max(float(shift @ shift) + traces - 2 * overlap, 0.0)


def _factor(moments: Moments) -> Float64[np.ndarray, "R D"]:
    """F with F^T F = covariance. n samples span n - 1 dimensions at most; eigenvalues beyond are rounding."""
    values, vectors = np.linalg.eigh(moments.covariance)
    rank = min(moments.n - 1, moments.dim)
    kept = np.clip(values[-rank:], 0.0, None)
    return np.asarray(np.sqrt(kept)[:, None] * vectors[:, -rank:].T)
