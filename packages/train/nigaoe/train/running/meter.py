"""What is measured of the steps. Losses stay on the device until somebody asks, so that no step waits for one."""

import resource
import sys
import time

import torch
from torch import Tensor

from nigaoe.train.watching.tracking import StepFigures


class Meter:
    """Figures of the steps since they were last taken."""

    def __init__(
        self, batch_size: int, flops_per_sample: float | None, world_size: int, peak_tflops: float | None
    ) -> None:
        """`flops_per_sample`: of forward and backward; `peak_tflops`: of one device, for MFU."""
        self._batch_size, self._world_size = batch_size, world_size
        self._flops, self._peak = flops_per_sample, peak_tflops
        self._steps: list[tuple[int, Tensor, Tensor]] = []
        self._since, self._waited = time.monotonic(), 0.0

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def seconds(self) -> float:
        """Since figures were last taken."""
        return time.monotonic() - self._since

    def add(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Note a step; both are scalars and may still be under way on the device."""
        self._steps.append((step, loss, grad_norm))

    def first_bad_step(self) -> int | None:
        """The first step whose loss or gradient is not a finite number. Waits for the device."""
        if not self._steps:
            return None
        seen = torch.stack([loss.to(norm.device) + norm for _, loss, norm in self._steps])
        finite = torch.isfinite(seen).tolist()
        return next((step for (step, _, _), good in zip(self._steps, finite, strict=True) if not good), None)

    def take(self, lr: float, waited_s: float) -> StepFigures:
        """Figures of the steps so far; the next ones count anew. Waits for the device.

        `waited_s`: for data, since the run began.
        """
        steps, seconds = len(self._steps), self.seconds
        loss = float(torch.stack([loss for _, loss, _ in self._steps]).mean())
        norm = float(torch.stack([norm for _, _, norm in self._steps]).mean())
        rate = steps * self._batch_size / seconds
        tflops = None if self._flops is None else rate * self._flops / self._world_size / 1e12
        figures = StepFigures(
            step=self._steps[-1][0] + 1,
            loss=loss,
            lr=lr,
            grad_norm=norm,
            images_per_s=rate,
            step_s=seconds / steps,
            data_wait_s=(waited_s - self._waited) / steps,
            tflops=tflops,
            mfu=None if tflops is None or self._peak is None else tflops / self._peak,
            memory_gib=memory_gib(),
        )
        self._steps, self._since, self._waited = [], time.monotonic(), waited_s
        return figures


def memory_gib() -> float:
    """The most that torch held on the device; on a CPU the most that the process held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)
