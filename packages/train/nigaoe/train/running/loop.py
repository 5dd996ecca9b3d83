"""The training loop of one worker: Ray started the process group, DeepSpeed owns the optimizer."""

import os
from collections.abc import Mapping
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base, load_base
from nigaoe.core.errors import NigaoeError
from nigaoe.train.config import TrainConfig
from nigaoe.train.planning.devices import visible_device
from nigaoe.train.planning.plan import flops_per_sample
from nigaoe.train.running import checkpoints, failures
from nigaoe.train.running.engines import Engine, learning_rate
from nigaoe.train.running.fitting import largest_that_fits, out_of_memory
from nigaoe.train.running.meter import Meter
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.running.state import load_optimizer_state, whole_weights
from nigaoe.train.running.trust import require_same_gradients
from nigaoe.train.samples.batches import Batch, TrainingData
from nigaoe.train.samples.draws import Draws
from nigaoe.train.samples.online import OnlineDataset
from nigaoe.train.samples.prepared import PreparedDataset
from nigaoe.train.samples.shares import ReadyShares, Share, Shares
from nigaoe.train.watching.tracking import Tracker

LOG_EVERY_S = 1.0
LOOK_EVERY = 32
"""Steps after which a worker looks whether its figures are still numbers; the device is waited for that often."""
ASK_EVERY = 8
"""Steps after which all workers ask whether a machine is about to be taken away."""


def train_loop(arguments: dict[str, Any]) -> None:
    """Train until `steps`, from the latest checkpoint if there is one. `arguments`: config, board and threads."""
    config = TrainConfig.model_validate(arguments["config"])
    if failures.noted(config.out) is not None:
        # Ray has started the workers again, which would fail again.
        return
    device = ray.train.torch.get_device()
    # DeepSpeed picks an accelerator when imported: on a worker, not on the driver, and the one that Ray gave.
    os.environ["DS_ACCELERATOR"] = "cuda" if device.type == "cuda" else "cpu"
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(arguments["threads"])))
    try:
        Worker(config, device, arguments["board"]).run()
    except NigaoeError as error:
        failures.note(config.out, str(error))
        raise


class NonFiniteStep(NigaoeError):
    """A loss or a gradient was not a number."""


class MicroBatchTooLarge(NigaoeError):
    """A worker's part of a batch does not fit its device."""


class Worker:
    """One of the processes that train together. Whatever it does, all of them do in the same order."""

    def __init__(self, config: TrainConfig, device: torch.device, board: Any) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        self.base = load_base(config.base, config.precision, device)
        if config.gradient_checkpointing:
            self.base.unet.enable_gradient_checkpointing()
        self.data = open_data(config, self.base)
        self.adapter = new_adapter(config, self.base, self.data.features.widths).to(device)
        restored = checkpoints.restore()
        if restored is not None:
            self.adapter.load_state_dict(restored.weights)
        self.start = 0 if restored is None else restored.step
        self.average = self._average(None if restored is None else restored.average)
        self.objective = AdapterObjective(
            self.adapter,
            self.base,
            config.drop,
            self.data.features.unconditional,
            config.loss,
            owns_unet=config.deepspeed.zero_stage == 3,
            compiled=config.compile,
        )
        self.shares = Shares(config, self.data, self.base.schedule.num_train_timesteps)
        if config.compile:
            self._require_trustworthy()
        self.engine = Engine(config, self.objective, self.world_size, device)
        if restored is not None:
            load_optimizer_state(self.engine, self.adapter, restored.moments, restored.step)
        self.tracker = Tracker(config, board) if self.rank == 0 else None
        flops = flops_per_sample(config) if self.rank == 0 else None
        known = visible_device()
        peak = None if known is None or device.type != "cuda" else known.tflops(config.precision)
        self.meter = Meter(config.batch_size, flops, self.world_size, peak)
        self._warned = False

    def run(self) -> None:
        """All steps that are left, and the finished adapter."""
        config = self.config
        if self.tracker is not None:
            self.tracker.started(self.start, self.world_size)
        with ReadyShares(self.shares, range(self.start, config.steps), self.rank, self.world_size) as shares:
            for share in shares:
                self._step(share)
                self._look(shares.waited_s, share.step + 1)
        if self.tracker is not None:
            self.tracker.close()

    def _require_trustworthy(self) -> None:
        unconditional = self.data.features.unconditional
        plain = AdapterObjective(self.adapter, self.base, self.config.drop, unconditional, self.config.loss)
        part = self.shares.at(self.start, self.rank, self.world_size).parts[0]
        require_same_gradients(self.objective, plain, part.batch, part.draws)

    def _step(self, share: Share) -> None:
        lr = learning_rate(share.step, self.config.steps, self.config.optimizer)
        self.engine.set_learning_rate(lr)
        losses = []
        failed = None
        for part in share.parts:
            try:
                losses.append(self.engine.accumulate(*part))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                failed = part
                break
        if failed is not None:
            # Out of the `except` block, whose frames hold the memory of the call that failed.
            raise self._too_large(failed.batch, failed.draws)
        norm = self.engine.step()
        self._update_average(share.step)
        self.meter.add(share.step, self.engine.mean(torch.stack(losses).mean()), norm)

    def _look(self, waited_s: float, done: int) -> None:
        """What is due after `done` steps: figures, a look for numbers that are none, a checkpoint."""
        config = self.config
        is_last = done == config.steps
        is_saved = done % config.checkpoint_every == 0 or is_last
        if not is_saved and done % ASK_EVERY == 0 and ray.train.get_preemption_info() is not None:
            # One, when the warning comes; if the machine stays after all, the usual ones follow.
            is_saved, self._warned = not self._warned, True
        is_logged = is_saved or self.meter.seconds >= LOG_EVERY_S
        if is_logged or len(self.meter) >= LOOK_EVERY:
            self._require_numbers()
        if not is_logged:
            return
        figures = self.meter.take(learning_rate(done - 1, config.steps, config.optimizer), waited_s)
        if self.tracker is not None:
            self.tracker.log(figures)
            if is_saved:
                self.tracker.checkpoint_taken(done)
        if is_saved:
            number = -(-done // config.checkpoint_every)
            checkpoints.save(
                self.engine,
                self.adapter,
                self.average,
                done,
                {"loss": figures.loss},
                origin(config, self.adapter),
                is_validated=config.validation is not None and (number % config.validation.every == 0 or is_last),
            )

    def _require_numbers(self) -> None:
        step = self.meter.first_bad_step()
        if step is None:
            return
        names = self.shares.names(step)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        saved = (step // self.config.checkpoint_every) * self.config.checkpoint_every
        last = f"the last good checkpoint is that of step {saved}" if saved else "there is no checkpoint yet"
        raise NonFiniteStep(
            f"loss or gradient of step {step + 1} is not a finite number, for the pictures {shown}; look at them, "
            f"lower optimizer.lr or take precision float32; {last}"
        )

    def _too_large(self, batch: Batch, draws: Draws) -> NigaoeError:
        size = len(draws.uniform)

        def attempt(count: int) -> None:
            part = Batch(
                batch.latents[:count],
                {name: x[:count] for name, x in batch.features.items()},
                batch.token_ids[:count],
                batch.time_ids[:count],
            )
            self.objective(part, Draws(*(x[:count] for x in draws))).backward()
            self.adapter.zero_grad(set_to_none=True)

        fits = 0 if self.engine.zero_stage == 3 else largest_that_fits(attempt, size)
        cure = (
            f"the largest that does is {fits}; set micro_batch_size={fits}"
            if fits
            else "halve it in micro_batch_size, or turn on gradient_checkpointing"
        )
        return MicroBatchTooLarge(f"{size} pictures at once do not fit the memory of {self.device}; {cure}")

    def _average(self, stored: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        """The averaged weights, which the first worker keeps."""
        if self.config.ema_decay is None or self.rank != 0:
            return None
        weights = self.adapter.state_dict() if stored is None else stored
        return {name: x.detach().to(self.device, copy=True) for name, x in weights.items()}

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        if self.config.ema_decay is None or (self.rank != 0 and self.engine.zero_stage < 3):
            return
        # Warmed up, so that the average never remembers the untrained weights.
        rate = 1 - min(self.config.ema_decay, (step + 1) / (step + 20))
        with whole_weights(self.engine, self.adapter) as weights:
            if self.average is not None:
                torch._foreach_lerp_(list(self.average.values()), [weights[name] for name in self.average], rate)


def open_data(config: TrainConfig, base: Base) -> TrainingData:
    """What the config trains on.

    Raises:
        DataError: It is not there.
    """
    if not config.data.cached:
        return OnlineDataset.open(config, base)
    return PreparedDataset.open(config.data.prepared, config.data.reference)


def new_adapter(config: TrainConfig, base: Base, widths: Mapping[Feature, int]) -> IPAdapter:
    """The adapter as a run begins with it."""
    wanted = config.adapter
    if config.init_from is None:
        return IPAdapter.for_unet(
            base.unet, wanted.variant, features=widths, num_tokens=wanted.num_tokens, lora_rank=wanted.lora_rank
        )
    adapter = load_adapter(config.init_from, wanted.variant).train()
    adapter.require_fit(base.unet)
    return adapter


def origin(config: TrainConfig, adapter: IPAdapter) -> dict[str, str]:
    """What a trained file says of itself."""
    faces = {} if config.face_encoder is None else {"face_encoder": config.face_encoder}
    return {
        "variant": adapter.variant.name,
        "base": config.base,
        "image_encoder": config.image_encoder,
        **faces,
    }
