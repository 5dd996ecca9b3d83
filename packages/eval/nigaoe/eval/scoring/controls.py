"""The rate at which two independent answers would agree by chance, without which a rate of agreement says little."""

import numpy as np
from jaxtyping import Float64


def one_hot_pair(
    seen: Float64[np.ndarray, " N"], reference: Float64[np.ndarray, " N"], num_values: int
) -> Float64[np.ndarray, "N C"]:
    """Columns: agreement, then which value was seen, then which the reference has; C = 1 + 2 K."""
    eye = np.eye(num_values)
    agree = (seen == reference).astype(np.float64)
    return np.concatenate([agree[:, None], eye[seen.astype(int)], eye[reference.astype(int)]], axis=1)


def chance_agreement(means: Float64[np.ndarray, "... C"]) -> Float64[np.ndarray, "..."]:
    """sum_k p(seen = k) p(reference = k), from column means of `one_hot_pair`."""
    k = (means.shape[-1] - 1) // 2
    return np.asarray((means[..., 1 : 1 + k] * means[..., 1 + k :]).sum(axis=-1))


def agreement_ratio(means: Float64[np.ndarray, "... C"]) -> Float64[np.ndarray, "..."]:
    """Agreement over chance: 1 means that nothing was copied. Nothing to agree on by chance gives 0."""
    chance = chance_agreement(means)
    return np.asarray(np.divide(means[..., 0], chance, out=np.zeros_like(chance), where=chance > 0))
