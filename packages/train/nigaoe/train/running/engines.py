"""DeepSpeed around the objective: who holds which part of the state, and how a step is taken."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter, Lora
from nigaoe.core.attention import attention_layers
from nigaoe.core.errors import ConfigError
from nigaoe.train.config import OptimizerConfig, TrainConfig
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.division import divide
from nigaoe.train.samples.draws import Draws

MOST_GATHERED = 100_000_000
"""Frozen parameters that a worker holds whole at a time under ZeRO-3."""


def deepspeed_config(config: TrainConfig, world_size: int, trainable: int) -> dict[str, Any]:
    """What DeepSpeed is told. Frozen weights lie in their precision and the adapter in float32, so it casts nothing.

    `trainable`: parameters.
    """
    division = divide(config.batch_size, world_size, config.micro_batch_size)
    where = {"optimizer": ("optimizer",), "all": ("optimizer", "param"), "none": ()}[config.deepspeed.offload]
    stage = config.deepspeed.zero_stage
    zero: dict[str, Any] = {
        "stage": stage,
        # DeepSpeed's own linear layer, put in the place of torch's for the whole process, saves nothing here.
        "memory_efficient_linear": False,
        # DeepSpeed's own buffer is of 2 GB, whatever there is to reduce.
        "reduce_bucket_size": min(500_000_000, trainable),
        # Its own limits are larger than the UNet of SD 1.5, which would then stay gathered.
        "stage3_max_live_parameters": MOST_GATHERED,
        "stage3_max_reuse_distance": MOST_GATHERED,
        **{f"offload_{part}": {"device": "cpu", "pin_memory": torch.cuda.is_available()} for part in where},
    }
    return {
        "train_micro_batch_size_per_gpu": division.micro_batch_size,
        "gradient_accumulation_steps": division.accumulation,
        # Without ZeRO the norm is taken in `Engine.step`, where nothing waits for the device.
        "gradient_clipping": config.optimizer.max_grad_norm if stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def make_optimizer(adapter: IPAdapter, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the adapter, by name.

    Raises:
        ConfigError: 8 bits without bitsandbytes or a GPU.
    """
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        # On a CPU the fused kernel is the slower one.
        return torch.optim.AdamW(adapter.parameters(), fused=device.type == "cuda", **settings)
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            "optimizer.name 'adamw_8bit' needs the package bitsandbytes; install it or set optimizer.name=adamw"
        ) from None
    if device.type != "cuda":
        raise ConfigError("optimizer.name 'adamw_8bit' needs a GPU; set optimizer.name=adamw")
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(adapter.parameters(), **settings)
    return optimizer


def learning_rate(step: int, steps: int, optimizer: OptimizerConfig) -> float:
    """Learning rate of a step: linear warm-up, then constant or a cosine to zero."""
    warm = min(1.0, (step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if optimizer.schedule == "cosine" else 1.0
    return optimizer.lr * warm * decay


class Engine:
    """A DeepSpeed engine that takes whole steps. Collective: every worker calls the same things in the same order."""

    def __init__(self, config: TrainConfig, objective: AdapterObjective, world_size: int, device: torch.device) -> None:
        """Needs a process group of `world_size`."""
        # It picks an accelerator when imported, so not before a worker knows its device.
        import deepspeed

        # Collectives for inference on CPUs, that it would compile now: half a minute, where there is a compiler at all.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        optimizer = make_optimizer(objective.adapter, config.optimizer, device)
        trainable = sum(weight.numel() for weight in objective.adapter.parameters())
        settings = deepspeed_config(config, world_size, trainable)
        self.engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=settings)
        if config.deepspeed.zero_stage == 3:
            # A LoRA is read as weights inside an attention layer, for whose calls they must be gathered.
            for attn, lora in _lora_readers(objective):
                for weight in lora.parameters():
                    deepspeed.zero.register_external_parameter(attn, weight)
        self.zero_stage: Literal[0, 1, 2, 3] = config.deepspeed.zero_stage
        self.world_size = world_size
        self.accumulation = int(settings["gradient_accumulation_steps"])
        self._max_norm = config.optimizer.max_grad_norm
        self._adapter = objective.adapter

    def set_learning_rate(self, lr: float) -> None:
        """For the steps to come."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr

    def accumulate(self, batch: Batch, draws: Draws, weight: float = 1.0) -> Tensor:
        """Forward and backward of a part of the batch; returns its loss, weighted and detached."""
        loss: Tensor = self.engine(batch, draws) * weight
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
        return loss.detach()

    def mean(self, loss: Tensor) -> Tensor:
        """Over all workers."""
        if self.world_size > 1:
            dist.all_reduce(loss)
        return loss / self.world_size

    def step(self) -> Tensor:
        """Take the step, once every part has been accumulated; returns the norm of the gradient before clipping."""
        if self.zero_stage == 0:
            norm = nn.utils.clip_grad_norm_(self._adapter.parameters(), self._max_norm, foreach=True)
            self.engine.step()
            return norm
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm())


def _lora_readers(objective: AdapterObjective) -> Iterator[tuple[nn.Module, Lora]]:
    """Attention layers with the LoRAs that are added to their projections."""
    layers = attention_layers(objective.unet)
    for index in objective.adapter.ip_adapter:
        for lora in objective.adapter.layer(int(index)).loras.values():
            yield layers[int(index)], lora
