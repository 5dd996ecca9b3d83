"""The training loop of one worker: Ray started the process group, DeepSpeed owns the optimizer."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base, load_base
from nigaoe.core.samplers.timestep_bias import draw_timesteps, timestep_weights
from nigaoe.train import checkpoints
from nigaoe.train.config import OptimizerConfig, TrainConfig
from nigaoe.train.objective import AdapterObjective
from nigaoe.train.prepared import Batch, PreparedDataset
from nigaoe.train.sampler import rows_at, step_generator
from nigaoe.train.tracking import Tracker

LOG_EVERY_S = 1.0


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """What DeepSpeed is told; precision is autocast's business, for the trainable weights are few and stay float32."""
    return {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "zero_optimization": {"stage": config.cluster.zero_stage},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def learning_rate(step: int, steps: int, optimizer: OptimizerConfig) -> float:
    """Learning rate of a step: linear warm-up, then constant or a cosine to zero."""
    warm = min(1.0, (step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if optimizer.schedule == "cosine" else 1.0
    return optimizer.lr * warm * decay


def train_loop(arguments: dict[str, Any]) -> None:
    """Train until `steps`, from the latest checkpoint if there is one. `arguments`: the config and a board."""
    device = ray.train.torch.get_device()
    # DeepSpeed picks an accelerator when imported: on a worker, not on the driver, and the one that Ray gave.
    os.environ["DS_ACCELERATOR"] = "cuda" if device.type == "cuda" else "cpu"
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(arguments["threads"])))
    import deepspeed

    config = TrainConfig.model_validate(arguments["config"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.manual_seed(config.seed)
    base = load_base(config.base, config.precision, device)
    dataset = PreparedDataset.open(config.data.prepared)
    adapter = _new_adapter(config, base, dataset.features.widths).to(device)
    average = {k: v.detach().clone() for k, v in adapter.state_dict().items()} if config.ema_decay else None
    optimizer = torch.optim.AdamW(
        adapter.parameters(),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    objective = AdapterObjective(adapter, base, config.drop, dataset.features.unconditional)
    engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=deepspeed_config(config))
    start = checkpoints.restore(engine, average)
    tracker = Tracker(config, arguments["board"]) if rank == 0 else None
    if tracker is not None:
        tracker.started(start, world_size)
    loss_sum, since, count = torch.zeros((), device=device), time.monotonic(), 0
    for step, batch, draws in _batches(config, dataset, start, rank, world_size, base.schedule.num_train_timesteps):
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.optimizer)
        loss = engine(batch, *draws)
        engine.backward(loss)
        engine.step()
        if average is not None:
            _update_average(average, adapter, config.ema_decay or 0.0, step)
        loss_sum += loss.detach()
        count += 1
        done = step + 1
        if tracker is not None and (done == config.steps or time.monotonic() - since >= LOG_EVERY_S):
            seconds = time.monotonic() - since
            rate = count * config.batch_size * world_size / seconds
            tracker.log(done, loss_sum.item() / count, rate, learning_rate(step, config.steps, config.optimizer))
            loss_sum.zero_()
            since, count = time.monotonic(), 0
        if done % config.checkpoint_every == 0 or done == config.steps:
            checkpoints.save(engine, done, average, {"loss": float(loss.detach())})
    if rank == 0:
        _publish(adapter, average, config)
    if tracker is not None:
        tracker.close()


def _new_adapter(config: TrainConfig, base: Base, widths: Mapping[Feature, int]) -> IPAdapter:
    variant, num_tokens = config.adapter.variant, config.adapter.num_tokens
    if config.init_from is None:
        return IPAdapter.for_unet(base.unet, variant, features=widths, num_tokens=num_tokens)
    adapter = load_adapter(config.init_from, variant).train()
    adapter.require_fit(base.unet)
    return adapter


def _batches(
    config: TrainConfig, dataset: PreparedDataset, start: int, rank: int, world_size: int, train_timesteps: int
) -> Iterator[tuple[int, Batch, tuple[Tensor, Tensor, Tensor]]]:
    """(step, batch, (timesteps, noise, uniform)) from `start` on; all of it a function of seed, step and rank."""
    size, rows, bias = config.batch_size, dataset.manifest.rows, config.timestep_bias
    weights = timestep_weights(train_timesteps, bias.strategy, bias.multiplier, bias.portion)
    for step in range(start, config.steps):
        generator = step_generator(config.seed, step, rank)
        index = rows_at(step, rank, world_size, size, rows, config.seed)
        batch = dataset.batch(index, config.data.reference, generator)
        timesteps = draw_timesteps(weights, size, generator)
        noise = torch.randn(batch.latents.shape, generator=generator)
        yield step, batch, (timesteps, noise, torch.rand(size, generator=generator))


@torch.no_grad()
def _update_average(average: dict[str, Tensor], adapter: IPAdapter, decay: float, step: int) -> None:
    # Warmed up, so that the average never remembers the untrained weights.
    rate = 1 - min(decay, (step + 1) / (step + 20))
    for key, value in adapter.state_dict().items():
        average[key].lerp_(value, rate)


def _publish(adapter: IPAdapter, average: dict[str, Tensor] | None, config: TrainConfig) -> None:
    if average is not None:
        adapter.load_state_dict(average)
    origin = {
        "variant": adapter.variant.name,
        "base": config.base,
        "image_encoder": config.image_encoder,
        **({} if config.face_encoder is None else {"face_encoder": config.face_encoder}),
    }
    save_adapter(adapter, Path(config.out) / "adapter.safetensors", {"nigaoe": json.dumps(origin)})
