"""The two sides of the training benchmark: nigaoe's step as its loop takes it, and the published loop over files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import load_base
from nigaoe.train.config import TrainConfig
from nigaoe.train.running.engines import Engine, learning_rate
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.running.trust import require_same_gradients
from nigaoe.train.samples.batches import TrainingData
from nigaoe.train.samples.choices import choose
from nigaoe.train.samples.draws import sample_generator
from nigaoe.train.samples.online import OnlineDataset
from nigaoe.train.samples.shares import ReadyShares, Share, Shares
from plain_training import (
    Encoded,
    Frozen,
    Pixels,
    PlainAdapter,
    Sample,
    drops,
    loader,
    loss_of,
    make_optimizer,
    token_ids,
    train_on,
)
from training_worlds import Size

COMPARED_STEPS = 6


@dataclass(frozen=True)
class World:
    """What both sides train on."""

    size: Size
    config: TrainConfig
    device: torch.device
    cores: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen models."""
        return getattr(torch, self.config.precision)  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def pinned(self, *, first_only: bool = True) -> Iterator[None]:
        """On a CPU every side has one core; processes started outside of this have the others."""
        if self.device.type == "cpu":
            os.sched_setaffinity(0, self.cores[:1] if first_only else self.cores[1:] or self.cores)
        yield
        if self.device.type == "cpu":
            os.sched_setaffinity(0, self.cores)


class Ours:
    """Objective, DeepSpeed engine and shares as the training loop has them."""

    def __init__(self, world: World) -> None:
        config = world.config
        self.world, self.base = world, load_base(config.base, config.precision, world.device)
        self.online = OnlineDataset.open(config, self.base)
        torch.manual_seed(0)
        features = self.online.features
        self.adapter = IPAdapter.for_unet(self.base.unet, config.adapter.variant, features=features.widths)
        self.start = {name: value.clone() for name, value in self.adapter.state_dict().items()}
        self.adapter.to(world.device)
        objective = AdapterObjective(
            self.adapter,
            self.base,
            config.drop,
            features.unconditional,
            config.loss,
            compiled=config.compile,
        )
        if config.compile:
            plain = AdapterObjective(self.adapter, self.base, config.drop, features.unconditional, config.loss)
            part = self.shares(self.online).at(0).parts[0]
            require_same_gradients(objective, plain, part.batch, part.draws)
        self.engine = Engine(config, objective, 1, world.device)

    def shares(self, data: TrainingData) -> Shares:
        """Of a dataset."""
        return Shares(self.world.config, data, self.base.schedule.num_train_timesteps)

    def step(self, share: Share) -> Tensor:
        """What the loop does of a step."""
        config = self.world.config
        self.engine.set_learning_rate(learning_rate(share.step, config.steps, config.optimizer))
        losses = [self.engine.accumulate(*part) for part in share.parts]
        self.engine.step()
        return torch.stack(losses).mean()

    def train(self, data: TrainingData, steps: range) -> None:
        """Some steps from what is on disk."""
        with ReadyShares(self.shares(data), steps, 0, 1) as shares:
            for share in shares:
                self.step(share)


class Plain:
    """The published loop. On a CPU with the layout of memory that a careful user gives it, which is the faster one."""

    def __init__(self, world: World, weights: dict[str, Tensor]) -> None:
        config = world.config
        self.world, self.frozen = world, Frozen.load(config.base, config.image_encoder)
        layout = torch.channels_last if world.device.type == "cpu" else torch.preserve_format
        for model in (self.frozen.vae, self.frozen.text_encoder, self.frozen.image_encoder):
            nn.Module.to(model, world.device, world.dtype)
        self.frozen.vae.to(memory_format=layout)
        self.frozen.unet.to(world.device, memory_format=layout)
        self.restart(weights)

    def restart(self, weights: dict[str, Tensor]) -> None:
        """With such weights and a new optimizer."""
        self.adapter = PlainAdapter(self.frozen, "base")
        self.adapter.load_state_dict(weights)
        self.adapter.to(self.world.device)
        self.optimizer = make_optimizer(self.adapter)

    def train(self, batches: Iterator[Pixels]) -> None:
        """All steps of some batches."""
        for _ in train_on(self.adapter, self.frozen, batches, self.optimizer):
            pass

    def loader(self, samples: Sequence[Sample], num_workers: int) -> Iterator[Pixels]:
        """Batches of files."""
        world = self.world
        return loader(self.frozen, samples, world.size.side_px, world.config.batch_size, num_workers)


def samples_of(world: World, data: TrainingData, share: Share) -> list[Sample]:
    """The files of a share, in its order, with what it drops."""
    folder, drop = Path(world.config.data.source).parent, world.config.drop
    uniform = [float(u) for part in share.parts for u in part.draws.uniform]
    names = data.keys(share.bucket, share.rows)
    return [
        Sample(folder / name, f"a photo of person {int(name[:-4])}", *drops(u, drop.image, drop.text, drop.both))
        for name, u in zip(names, uniform, strict=True)
    ]


def posterior_noise(world: World, share: Share) -> Tensor:
    """What the share drew to sample latents, [B, C, h, w]."""
    config, (batch, *_) = world.config, share.parts[0]
    first = share.step * config.batch_size
    generators = [sample_generator(config.seed, first + i) for i in range(config.batch_size)]
    choices = [choose(generator, 1, 1, batch.latents.shape[1:]) for generator in generators]
    return torch.stack([choice.noise for choice in choices]).to(world.device)


def loss_gaps(world: World, ours: Ours, plain: Plain) -> dict[str, float]:
    """Train both from the same weights on the same samples: the largest relative differences of their losses.

    Once the plain side is given the latents and embeddings that ours reads, once it makes them from the files.
    """
    device = world.device
    shares = [ours.shares(ours.online).at(step) for step in range(COMPARED_STEPS)]
    samples = [samples_of(world, ours.online, share) for share in shares]
    curve = [float(ours.step(share)) for share in shares]
    given = [_loss_given(ours, plain, share, some) for share, some in zip(shares, samples, strict=True)]
    plain.restart(ours.start)

    def drawn(step: int) -> tuple[Tensor, Tensor, Tensor]:
        draws = shares[step].parts[0].draws
        return posterior_noise(world, shares[step]), draws.noise.to(device), draws.timesteps.to(device)

    batches = plain.loader([sample for some in samples for sample in some], 0)
    files = list(train_on(plain.adapter, plain.frozen, batches, plain.optimizer, drawn))
    return {
        "same latents": max(abs(a / b - 1) for a, b in zip(curve, given, strict=True)),
        "from files": max(abs(a / b - 1) for a, b in zip(curve, files, strict=True)),
    }


def _loss_given(ours: Ours, plain: Plain, share: Share, samples: Sequence[Sample]) -> float:
    """Of a plain step on the latents and embeddings of a share."""
    (batch, draws, _), device, frozen = share.parts[0], ours.world.device, plain.frozen
    texts = ["" if sample.drops_text else sample.text for sample in samples]
    ids = token_ids(frozen.tokenizer, texts)
    kept = torch.tensor([not sample.drops_image for sample in samples])[:, None]
    with torch.no_grad():
        text = frozen.text_encoder(ids.to(device))[0]
    latents = batch.latents.to(device) * frozen.vae.config.scaling_factor
    encoded = Encoded(latents, (batch.features["image_embeds"] * kept).to(device), text)
    loss = loss_of(plain.adapter, frozen, encoded, draws.noise.to(device), draws.timesteps.to(device))
    loss.backward()
    plain.optimizer.step()
    plain.optimizer.zero_grad()
    return loss.item()
