"""One worker: loads what a shard needs, makes its pictures and judges them. A result depends on its task alone."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.allocator import keep_freed_memory
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from nigaoe.core.image_prompts.features import image_features, require_encoder
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.pixels import centre_crop, to_tensor
from nigaoe.eval.config import EvalConfig, ToyProtocolConfig
from nigaoe.eval.metrics.moments import Moments
from nigaoe.eval.protocols.make import make_protocol
from nigaoe.eval.protocols.protocol import CellPlan, Sample, row_seed
from nigaoe.eval.scoring.clip import ClipScorer, cosines
from nigaoe.eval.scoring.features import FeatureExtractor
from nigaoe.eval.scoring.judge import JudgeScorer, judge_columns
from nigaoe.eval.shards import ShardResult, ShardTask


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker is told once."""

    config: EvalConfig
    adapters: dict[str, Path]
    folder: Path
    """Where the config's relative paths start."""
    device: str


class ShardWorker:
    """Evaluates shards, one after the other. Runs as a Ray actor, and as well without Ray."""

    def __init__(self, spec: WorkerSpec) -> None:
        """Loads the judges; bases and adapters come with the first shard that needs them."""
        # One thread: sums of floats are then in the same order on every machine of a kind.
        torch.set_num_threads(1)
        if spec.folder.is_dir():
            # A cluster's workers may start elsewhere. Where the folder does not exist, relative paths would not either.
            os.chdir(spec.folder)
        self.spec, self.config = spec, spec.config
        self.protocol = make_protocol(spec.config)
        if spec.device == "cpu":
            keep_freed_memory()
        self.clip = ClipScorer.load(spec.config.protocol.clip, spec.device)
        self.judge = JudgeScorer.load() if isinstance(spec.config.protocol, ToyProtocolConfig) else None
        self.extractor: FeatureExtractor = self.clip if self.judge is None else self.judge
        self._engine: Engine | None = None
        self._encoder: ImageEncoder | None = None
        self._adapters: dict[str, IPAdapter] = {}

    def ready(self) -> bool:
        """Tell that the worker has started."""
        return True

    def evaluate(self, task: ShardTask) -> ShardResult:
        """Make a shard's pictures and score them."""
        samples = [self.protocol.sample(task.cell, index) for index in range(task.start, task.stop)]
        pictures = self._pictures(task, samples)
        moments = Moments.of(self.extractor.features(pictures))
        columns = {} if task.cell.source == "yardstick" else self._columns(task, samples, pictures)
        kept = {}
        for index in task.pictures:
            kept[f"{index}"] = _png(pictures[index - task.start])
            kept[f"{index}-reference"] = _png(samples[index - task.start].reference)
        return ShardResult(task.id, task.fingerprint, [s.group for s in samples], columns, moments, kept)

    def _columns(self, task: ShardTask, samples: list[Sample], pictures: list[Image.Image]) -> dict[str, list[float]]:
        seen = self.clip.features(pictures)
        references = self.clip.features([sample.reference for sample in samples])
        # All but the last wrong reference are in this shard already.
        beyond = self.protocol.sample(task.cell, task.shuffled[-1]).reference
        wrong = np.concatenate([references[1:], self.clip.features([beyond])])
        columns = {
            "clip_t": cosines(seen, self.clip.text_features([sample.prompt for sample in samples])).tolist(),
            "clip_i": cosines(seen, references).tolist(),
            "clip_i_shuffled": cosines(seen, wrong).tolist(),
        }
        if self.judge is not None:
            identities = [sample.identity for sample in samples if sample.identity is not None]
            backgrounds = [sample.background for sample in samples if sample.background is not None]
            columns |= judge_columns(self.judge.answers(pictures), identities, backgrounds)
        return columns

    def _pictures(self, task: ShardTask, samples: list[Sample]) -> list[Image.Image]:
        if task.cell.source == "generation":
            return self._generate(task, samples)
        given = [sample.picture for sample in samples if sample.picture is not None]
        return given if task.cell.source != "reconstruction" else self._reconstruct(task.cell, given)

    def _reconstruct(self, cell: CellPlan, pictures: list[Image.Image]) -> list[Image.Image]:
        base = self._engine_of(cell).base
        pixels = torch.stack([to_tensor(centre_crop(picture, base.default_size_px)) for picture in pictures])
        mean, _ = base.encode_images(pixels)
        decoded = base.decode(base.scale_latents(mean))
        return [Image.fromarray(picture.numpy()) for picture in decoded]

    def _generate(self, task: ShardTask, samples: list[Sample]) -> list[Image.Image]:
        setting = self.config.sampling
        prompts = self._image_prompts(task.cell, [sample.reference for sample in samples])
        generations = [
            Generation(
                prompt=sample.prompt,
                negative_prompt=setting.negative_prompt,
                image_prompts=image_prompts,
                seed=row_seed(self.config.seed, task.start + i),
                steps=setting.steps,
                guidance_scale=setting.guidance_scale,
            )
            for i, (sample, image_prompts) in enumerate(zip(samples, prompts, strict=True))
        ]
        return self._engine_of(task.cell).generate(generations)

    def _image_prompts(self, cell: CellPlan, references: list[Image.Image]) -> list[tuple[GuidedImagePrompt, ...]]:
        if cell.adapter is None:
            return [()] * len(references)
        if self._encoder is None:
            self._encoder = load_image_encoder(self.config.protocol.image_encoder, self.spec.device)
        adapter = self._adapter_of(cell.adapter, self._engine_of(cell).base)
        features = image_features(adapter, self._encoder, references)
        return [(prompt,) for prompt in guided_image_prompts(adapter, features, self.config.sampling.adapter_scale)]

    def _adapter_of(self, name: str, base: Base) -> IPAdapter:
        if name not in self._adapters:
            self._adapters[name] = load_adapter(self.spec.adapters[name]).to(base.device)
        adapter = self._adapters[name]
        adapter.require_fit(base.unet)
        if self._encoder is not None:
            try:
                require_encoder(adapter, self._encoder)
            except AdapterError as error:
                raise AdapterError(f"adapter {name!r} and its encoder: {error}") from None
        return adapter

    def _engine_of(self, cell: CellPlan) -> Engine:
        assert cell.base is not None
        if self._engine is None or self._engine.base.name != cell.base:
            # One base at a time: shards come ordered by base, and two may not fit a GPU.
            self._engine = None
            setting = self.config.sampling
            self._engine = Engine(load_base(cell.base, setting.precision, self.spec.device), setting.max_rows)
        return self._engine


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
