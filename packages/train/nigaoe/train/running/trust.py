"""Whether a compiled UNet can be trained through: its gradients against those of the plain one, before the first step.

A compiler that is wrong is wrong quietly. With torch 2.13 on a CPU a UNet of a few channels gave the right loss and no
gradient at all in its middle block.
"""

import torch
from torch import Tensor

from nigaoe.core.errors import NigaoeError
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.draws import Draws

MOST_APART = {torch.float32: 1e-3, torch.bfloat16: 0.75, torch.float16: 0.75}
"""Distance of two gradients of a tensor over the length of the plain one. Half precision alone puts single tensors of
the toy base 25 % off float32, so there only what is lost, or unrelated, is found: 1 or more."""


class CompilerIsWrong(NigaoeError):
    """Compiled code computes other gradients than the code it was compiled from."""


def require_same_gradients(compiled: AdapterObjective, plain: AdapterObjective, batch: Batch, draws: Draws) -> None:
    """Compare both on a part of a batch, of the size that will be trained with; the adapter's gradients end empty.

    Raises:
        CompilerIsWrong: They differ by more than rounding.
    """
    expected, got = _gradients(plain, batch, draws), _gradients(compiled, batch, draws)
    # A tensor that nothing flows into, as the keys of a single token, has a gradient of rounding errors alone.
    longest = max(float(gradient.norm()) for gradient in expected.values())
    most = MOST_APART[plain.precision]
    for name, gradient in expected.items():
        apart = float((got[name] - gradient).norm()) / max(float(gradient.norm()), 1e-4 * longest)
        # Not `apart > most`: what is no number is wrong as well.
        if not apart <= most:
            raise CompilerIsWrong(
                f"compiled by torch {torch.__version__}, the gradient of {name} is {apart:.0%} off what the plain UNet "
                f"gives on {draws.noise.device.type}; set compile=false, or try another version of torch"
            )


def _gradients(objective: AdapterObjective, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    objective(batch, draws).backward()
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.detach().clone()
        for name, weight in objective.adapter.named_parameters()
    }
    objective.adapter.zero_grad(set_to_none=True)
    return found
