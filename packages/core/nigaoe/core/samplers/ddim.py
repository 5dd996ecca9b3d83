"""DDIM (arXiv 2010.02502, eq. 12, eta = 0) over rows that may stand at different timesteps."""

from torch import Tensor

from nigaoe.core.samplers.schedule import Prediction


def ddim_step(x_t: Tensor, prediction: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, kind: Prediction) -> Tensor:
    """One step back for latents [B, C, h, w], each row with its own alpha_bar [B]."""
    a_prev = alpha_bar_prev.view(-1, 1, 1, 1)
    x0, epsilon = denoised(x_t, prediction, alpha_bar, kind)
    return a_prev.sqrt() * x0 + (1 - a_prev).sqrt() * epsilon


def denoised(x_t: Tensor, prediction: Tensor, alpha_bar: Tensor, kind: Prediction) -> tuple[Tensor, Tensor]:
    """(x_0, epsilon) that a prediction implies."""
    a = alpha_bar.view(-1, 1, 1, 1)
    if kind == "epsilon":
        return (x_t - (1 - a).sqrt() * prediction) / a.sqrt(), prediction
    if kind == "sample":
        return prediction, (x_t - a.sqrt() * prediction) / (1 - a).sqrt()
    return a.sqrt() * x_t - (1 - a).sqrt() * prediction, a.sqrt() * prediction + (1 - a).sqrt() * x_t
