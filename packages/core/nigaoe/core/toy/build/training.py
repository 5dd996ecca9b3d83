"""What every stage of the build shares: a schedule, an average of weights, a log line."""

import copy
import logging
import math
import time

import torch
from torch import nn

log = logging.getLogger(__name__)


def cosine_lr(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine from `peak` to `floor * peak`."""
    progress = min(1.0, step / steps)
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


class WeightAverage:
    """Exponential moving average of a module's weights, warmed up so that it never remembers the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay
        self._average: list[torch.Tensor] = list(self.module.parameters())

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self._decay, (step + 1) / (step + 20))
        torch._foreach_lerp_(self._average, [p.detach() for p in module.parameters()], 1 - decay)


class Progress:
    """Logs a running loss every `every` steps."""

    def __init__(self, name: str, steps: int, every: int = 100) -> None:
        self._name, self._steps, self._every = name, steps, every
        self._start, self._loss = time.monotonic(), 0.0

    def __call__(self, step: int, loss: float) -> None:
        self._loss = loss if step == 0 else 0.98 * self._loss + 0.02 * loss
        if (step + 1) % self._every == 0:
            elapsed = time.monotonic() - self._start
            log.info("%s step %d/%d loss %.4f %.0f s", self._name, step + 1, self._steps, self._loss, elapsed)


def optimise(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[nn.Parameter], lr: float) -> None:
    """One clipped step at learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
