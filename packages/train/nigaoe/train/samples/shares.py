"""What one worker computes of each step, made ready by a thread while the step before it runs."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nigaoe.core.samplers.timestep_bias import timestep_weights
from nigaoe.train.config import TrainConfig
from nigaoe.train.samples.batches import Batch, TrainingData
from nigaoe.train.samples.division import divide
from nigaoe.train.samples.draws import Draws, draw, sample_generator
from nigaoe.train.samples.sampler import SampleOrder

READY = 2
"""Steps held ready."""


class Part(NamedTuple):
    """What is computed at once."""

    batch: Batch
    draws: Draws
    weight: float
    """What its mean counts in the mean over all parts of all workers."""


class Share(NamedTuple):
    """A worker's part of a step."""

    step: int
    bucket: int
    rows: Tensor
    """Of the whole batch, over all workers, int64 [batch_size]."""
    parts: Sequence[Part]
    """Computed one after the other."""


class Shares:
    """The share of each worker of every step.

    Every sample draws from a generator of its position in the run, so that neither the number of workers nor the size
    of their parts changes what is learnt, rounding aside.
    """

    def __init__(self, config: TrainConfig, data: TrainingData, num_train_timesteps: int) -> None:
        bias = config.timestep_bias
        self._config, self._data = config, data
        self._weights = timestep_weights(num_train_timesteps, bias.strategy, bias.multiplier, bias.portion)
        self._order = SampleOrder(data.bucket_rows, config.batch_size, config.seed)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> Share:
        """The share of a worker."""
        config = self._config
        bucket, rows = self._order.at(step)
        division = divide(config.batch_size, world_size, config.micro_batch_size)
        parts = [division.part(rank, number) for number in range(division.accumulation)]
        return Share(
            step, bucket, rows, [self._part(step, bucket, rows, part, division.weight(part)) for part in parts]
        )

    def names(self, step: int) -> list[str]:
        """Of all rows in a step's batch, for messages."""
        return self._data.keys(*self._order.at(step))

    def _part(self, step: int, bucket: int, rows: Tensor, part: range, weight: float) -> Part:
        first, seed = step * self._config.batch_size, self._config.seed
        # Who has nothing to compute must compute something: workers wait for one another inside a call.
        part = part or range(1)
        generators = [sample_generator(seed, first + i) for i in part]
        batch = self._data.batch(bucket, rows[part.start : part.stop], generators)
        draws = draw(batch.latents.shape[1:], self._weights, self._config.loss.noise_offset, generators)
        if torch.cuda.is_available():
            batch, draws = _pinned(batch, draws)
        return Part(batch, draws, weight)


class ReadyShares:
    """Shares of one worker in order, made in a thread of their own."""

    def __init__(self, shares: Shares, steps: range, rank: int, world_size: int) -> None:
        self._queue: queue.Queue[Share | BaseException | None] = queue.Queue(READY)
        self._left = threading.Event()
        self.waited_s = 0.0
        """Seconds that the worker has waited for data."""
        self._thread = threading.Thread(target=self._fill, args=(shares, steps, rank, world_size), daemon=True)

    def __enter__(self) -> "ReadyShares":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(timeout=60)

    def __iter__(self) -> Iterator[Share]:
        while True:
            start = time.monotonic()
            found = self._queue.get()
            self.waited_s += time.monotonic() - start
            if isinstance(found, BaseException):
                raise found
            if found is None:
                return
            yield found

    def _fill(self, shares: Shares, steps: range, rank: int, world_size: int) -> None:
        try:
            for step in steps:
                self._put(shares.at(step, rank, world_size))
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Share | BaseException | None) -> None:
        while not self._left.is_set():
            try:
                return self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue


def _pinned(batch: Batch, draws: Draws) -> tuple[Batch, Draws]:
    """In memory from which a GPU copies without being waited for."""
    features = {name: x.pin_memory() for name, x in batch.features.items()}
    pinned = Batch(batch.latents.pin_memory(), features, batch.token_ids.pin_memory(), batch.time_ids.pin_memory())
    return pinned, Draws(*(x.pin_memory() for x in draws))
