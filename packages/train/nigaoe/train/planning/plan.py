"""What a run will take, before it runs: steps, samples, FLOPs, memory by part, size of a checkpoint.

Everything is counted on models without weights, so that a plan needs neither a GPU nor a download of gigabytes.
"""

from dataclasses import dataclass

from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.manifests import read_prepared
from nigaoe.train.config import TrainConfig
from nigaoe.train.planning.devices import GIB, Device
from nigaoe.train.planning.measuring import Activations, Flops, count_flops, measure_activations, parameters
from nigaoe.train.planning.skeleton import build_skeleton
from nigaoe.train.running.engines import deepspeed_config
from nigaoe.train.running.trainable import require_trainable
from nigaoe.train.samples.division import Division, divide

USUAL_SHARE = 0.4
"""Of a device's peak that a well-fed training loop reaches."""
LIBRARIES_BYTES = GIB
"""What the driver, cuDNN and NCCL take of a GPU beside torch; from half a GiB to one is usual."""
USABLE = 0.95
"""Of the rest; torch's allocator leaves gaps."""


@dataclass(frozen=True)
class TrainingPlan:
    """A run as it will be."""

    config: TrainConfig
    resolution_px: int
    num_tokens: int
    """Image tokens per picture; 0: one per patch."""
    trainable: int
    """Parameters."""
    frozen: dict[str, int]
    """Parameters of each frozen model."""
    rows: int | None
    """Of the prepared dataset; None: there is none yet."""
    micro_batch: int
    """Samples that a worker computes at once."""
    flops: Flops
    fixed_memory: dict[str, int]
    """Bytes on a worker's device that do not depend on the micro-batch, by part."""
    activations: Activations
    checkpoint: dict[str, int]
    """Bytes by part."""

    @property
    def samples(self) -> int:
        """Over the whole run."""
        return self.config.steps * self.config.batch_size

    @property
    def epochs(self) -> float | None:
        """How often every row is seen."""
        return None if not self.rows else self.samples / self.rows

    @property
    def accumulation(self) -> int:
        """Micro-batches per worker and step."""
        return _division(self.config).accumulation

    @property
    def memory_bytes(self) -> int:
        """Of a worker's device."""
        return sum(self.fixed_memory.values()) + self.activations.at(self.micro_batch)

    @property
    def flops_per_sample(self) -> int:
        """All that has to be computed, once."""
        return useful_flops(self.config, self.flops)

    def seconds_on(self, device: Device) -> float:
        """Of the whole run, every worker on one such device at `USUAL_SHARE` of its peak."""
        peak = device.tflops(self.config.precision) * 1e12
        total = self.samples * (self.flops_per_sample + self.flops.again)
        return total / (peak * USUAL_SHARE * self.config.cluster.num_workers)


def plan(config: TrainConfig) -> TrainingPlan:
    """Count everything; some seconds.

    Raises:
        ConfigError: A base that cannot be trained on.
        BaseModelError: The base or the image encoder cannot be found.
    """
    require_trainable(config.base)
    skeleton = build_skeleton(config)
    trainable = parameters(skeleton.adapter)
    frozen = {
        "UNet": parameters(skeleton.unet),
        "text encoder": parameters(*skeleton.text_towers),
        "autoencoder": parameters(skeleton.vae),
    }
    if not config.data.cached:
        frozen["image encoder"] = parameters(skeleton.image_encoder)
    return TrainingPlan(
        config=config,
        resolution_px=skeleton.resolution_px,
        num_tokens=skeleton.adapter.num_tokens,
        trainable=trainable,
        frozen=frozen,
        rows=_prepared_rows(config),
        micro_batch=_division(config).micro_batch_size,
        flops=count_flops(skeleton, gradient_checkpointing=config.gradient_checkpointing),
        fixed_memory=fixed_memory(config, frozen, trainable),
        activations=measure_activations(
            skeleton, gradient_checkpointing=config.gradient_checkpointing, fused=config.cluster.use_gpu
        ),
        checkpoint=_checkpoint_parts(config, trainable),
    )


def _division(config: TrainConfig) -> Division:
    return divide(config.batch_size, config.cluster.num_workers, config.micro_batch_size)


def flops_per_sample(config: TrainConfig) -> int:
    """What a sample of a run has to compute, once: the numerator of "model FLOPs utilisation". About a second.

    Raises:
        BaseModelError: The base or the image encoder cannot be found.
    """
    return useful_flops(config, count_flops(build_skeleton(config)))


def useful_flops(config: TrainConfig, flops: Flops) -> int:
    """The step and its text, and the encoders of pictures where nothing is cached."""
    return flops.step + flops.text + (0 if config.data.cached else flops.encoders)


def largest_micro_batch(plan: TrainingPlan, memory_bytes: int) -> int:
    """Samples that a worker can compute at once on a device of so much memory, as far as one can tell; 0: not one."""
    usable = USABLE * (memory_bytes - LIBRARIES_BYTES)
    room = usable - sum(plan.fixed_memory.values()) - plan.activations.fixed_bytes
    return max(0, int(room // max(1, plan.activations.sample_bytes)))


def does_not_fit(plan: TrainingPlan, memory_bytes: int) -> ConfigError:
    """What to say where a worker ran out of memory with the plan's micro-batch, or will."""
    # Less than what has just failed, whatever the estimate says.
    fits = min(largest_micro_batch(plan, memory_bytes), plan.micro_batch - 1)
    where = f"the {memory_bytes / GIB:.0f} GiB of a worker's device"
    if fits >= 1:
        share = plan.config.batch_size // plan.config.cluster.num_workers
        fits = max(size for size in range(1, fits + 1) if share % size == 0)
        return ConfigError(
            f"a micro-batch of {plan.micro_batch} does not fit into {where}; the largest that does is about {fits}: "
            f"set micro_batch_size={fits}, and the rest is accumulated"
        )
    options = [] if plan.config.gradient_checkpointing else ["gradient_checkpointing=true"]
    options += [] if plan.config.deepspeed.zero_stage == 3 else ["deepspeed.zero_stage=3"]
    options += ["a smaller data.resolution_px", "larger devices"]
    return ConfigError(f"not even one sample fits into {where}; try {' or '.join(options)}")


def _prepared_rows(config: TrainConfig) -> int | None:
    if not config.data.cached:
        return None
    try:
        return read_prepared(config.data.prepared).rows
    except DataError:
        return None


def fixed_memory(config: TrainConfig, frozen: dict[str, int], trainable: int) -> dict[str, int]:
    """`TrainingPlan.fixed_memory` of so many frozen and trainable parameters."""
    workers, stage, offload = config.cluster.num_workers, config.deepspeed.zero_stage, config.deepspeed.offload
    zero = deepspeed_config(config, workers, trainable)["zero_optimization"]
    number = 4 if config.precision == "float32" else 2
    parts = {f"{name} (frozen)": count * number for name, count in frozen.items()}
    if "image encoder" in frozen:
        parts["image encoder (frozen)"] = 4 * frozen["image encoder"]
    weights = 4 * trainable
    if stage == 3:
        unet = parts["UNet (frozen)"]
        gathered = min(unet, number * int(zero["stage3_max_live_parameters"]))
        parts["UNet (frozen)"] = 0 if offload == "all" else unet // workers
        parts["UNet (gathered)"] = gathered
    parts["adapter"] = (0 if offload == "all" else weights // workers) if stage == 3 else weights
    parts["gradients"] = weights // workers if stage >= 2 else weights
    moments = 2 * trainable if config.optimizer.name == "adamw_8bit" else 8 * trainable
    # ZeRO keeps a copy of its part of the weights beside the moments of it.
    parts["optimizer"] = moments if stage == 0 else 0 if offload != "none" else (moments + weights) // workers
    if stage:
        parts["DeepSpeed's buckets"] = 4 * int(zero["reduce_bucket_size"])
    if config.ema_decay is not None:
        parts["average (first worker)"] = weights
    return {name: size for name, size in parts.items() if size}


def _checkpoint_parts(config: TrainConfig, trainable: int) -> dict[str, int]:
    moments = 2 * trainable if config.optimizer.name == "adamw_8bit" else 8 * trainable
    parts = {"weights": 4 * trainable, "moments": moments}
    return parts if config.ema_decay is None else {**parts, "average": 4 * trainable}
