"""Run by `test_metrics_over_ranks.py`, once per rank: metrics in `torch.distributed`, their figures as JSON.

Arguments: the rank, how many there are, and a file to meet at.
"""

import json
import sys
from typing import Any

import numpy as np
import torch.distributed as dist

from nigaoe.eval.metrics.distribution import DistributionMetric
from nigaoe.eval.metrics.frechet import FrechetDistance
from nigaoe.eval.metrics.kid import KernelDistance
from nigaoe.eval.metrics.space import FeatureSpace

SPACE = FeatureSpace("toy", 6, "f00d", "64px")


def samples() -> tuple[np.ndarray, np.ndarray]:
    """40 real and 30 fake samples."""
    rng = np.random.default_rng(0)
    return rng.normal(0.4, 1.0, (40, 6)).astype(np.float32), rng.normal(0.0, 1.3, (30, 6)).astype(np.float32)


def figures(rank: int, world_size: int) -> dict[str, Any]:
    """All fakes are rank 0's, and the real samples are split unevenly."""
    real, fake = samples()
    bounds = {1: [0, 40], 2: [0, 12, 40]}[world_size]
    mine = list(range(bounds[rank], bounds[rank + 1]))
    found: dict[str, Any] = {}
    metrics: list[DistributionMetric[Any]] = [FrechetDistance(SPACE), KernelDistance(SPACE)]
    for metric in metrics:
        if rank == 0:
            metric.update(fake, real=False, ids=list(range(30)))
        metric.update(real[mine], real=True, ids=mine)
        found[metric.name] = metric.compute().item()
    # Ranks must agree whether they hold a figure already, or one waits for the other: so each takes in a batch.
    for metric in metrics:
        repeated = [20, 21] if rank == 0 else []
        metric.update(real[repeated], real=True, ids=repeated)
    found["repeated"] = metrics[1].compute().item()
    try:
        found["refused"] = metrics[0].compute().item()
    except ValueError as error:
        found["refused"] = str(error)
    return found


if __name__ == "__main__":
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size)
    sys.stdout.write(json.dumps(figures(rank, world_size)))
    dist.destroy_process_group()
