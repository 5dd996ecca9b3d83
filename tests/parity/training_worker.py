"""One process of a group that computes a training step by the engine and the shares that the loop has.

    python training_worker.py RANK WORLD_SIZE FOLDER

Takes FOLDER/jobs.json: configs, and what their adapters are made of. Every process leaves the samples that it was
given, cached and uncached, in FOLDER/samples-WORLD_SIZE-RANK.pt; the first one leaves losses and gradients under every
ZeRO stage in FOLDER/steps-WORLD_SIZE.pt.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nigaoe.core.bases import load_base
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.train.config import TrainConfig
from nigaoe.train.running import engines
from nigaoe.train.running.engines import Engine
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.batches import TrainingData
from nigaoe.train.samples.online import OnlineDataset
from nigaoe.train.samples.prepared import PreparedDataset
from nigaoe.train.samples.shares import Share, Shares
from tiny_worlds import moved_adapter

Step = tuple[float, dict[str, torch.Tensor]]
_settings = engines.deepspeed_config


def all_is_split(config: TrainConfig, world_size: int, trainable: int) -> dict[str, Any]:
    """Settings under which ZeRO-3 splits even the weights of a tiny world, which it would otherwise leave whole."""
    settings = _settings(config, world_size, trainable)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


def opened(config: TrainConfig) -> dict[str, TrainingData]:
    """The same rows from both sources."""
    return {
        "cached": PreparedDataset.open(config.data.prepared, config.data.reference),
        "uncached": OnlineDataset.open(config, load_base(config.base)),
    }


def steps(
    config: TrainConfig, adapter_settings: dict[str, Any], given: dict[str, Share], none: Any, world_size: int
) -> dict[str, Step]:
    """Mean loss over all workers and the gradient of every weight, by source."""
    from deepspeed.utils import safe_get_full_grad

    base, encoder = load_base(config.base), load_image_encoder(config.image_encoder)
    adapter = moved_adapter(base, encoder, config.adapter.variant, **adapter_settings).train().requires_grad_(True)
    owns = config.deepspeed.zero_stage == 3
    objective = AdapterObjective(adapter, base, config.drop, none, owns_unet=owns)
    engine = Engine(config, objective, world_size, torch.device("cpu"))
    found = {}
    for source, share in given.items():
        loss = torch.stack([engine.accumulate(*part) for part in share.parts]).mean()
        dist.all_reduce(loss)
        gradients = {name: safe_get_full_grad(weight).clone() for name, weight in adapter.named_parameters()}
        found[source] = float(loss) / world_size, gradients
        # The step of the other source begins where this one did.
        engine.set_learning_rate(0.0)
        engine.step()
    return found


def main() -> None:
    """See above."""
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.set_num_threads(1)
    store = folder / f"store-{world_size}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    engines.deepspeed_config = all_is_split
    samples: dict[str, dict[str, Share]] = {}
    results: dict[str, Step] = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        config = TrainConfig.model_validate(job["config"])
        variant, data = config.adapter.variant, opened(config)
        shares = {source: Shares(config, rows, 1000).at(0, rank, world_size) for source, rows in data.items()}
        samples[variant] = shares
        for zero_stage in range(4):
            config = TrainConfig.model_validate({**job["config"], "deepspeed": {"zero_stage": zero_stage}})
            none = data["cached"].features.unconditional
            for source, step in steps(config, job["adapter"], shares, none, world_size).items():
                results[f"{variant}/{zero_stage}/{source}"] = step
    torch.save(
        {v: {s: share.parts for s, share in by.items()} for v, by in samples.items()},
        folder / f"samples-{world_size}-{rank}.pt",
    )
    if rank == 0:
        torch.save(results, folder / f"steps-{world_size}.pt")
    dist.barrier()
    # DeepSpeed and gloo leave threads that would be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
