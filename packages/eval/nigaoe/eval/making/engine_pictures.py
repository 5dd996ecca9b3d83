"""Pictures that the engine draws: a base, an adapter at a scale, and the noise of each sample."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from nigaoe.core.image_prompts.features import image_features, require_encoder
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.pixels import centre_crop, to_tensor
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.protocols.protocol import CellPlan, Sample


class EnginePictures:
    """Holds one base at a time: shards come ordered by base, and two may not fit a GPU."""

    def __init__(self, config: EvalConfig, adapters: dict[str, Path], device: str) -> None:
        self.config, self.paths, self.device = config, adapters, device
        self._engine: Engine | None = None
        self._encoder: ImageEncoder | None = None
        self._adapters: dict[str, IPAdapter] = {}

    def draw(self, cell: CellPlan, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image]:
        """One picture per sample."""
        setting = self.config.sampling
        prompts = self._image_prompts(cell, [sample.reference for sample in samples])
        generations = [
            Generation(
                prompt=sample.prompt,
                negative_prompt=setting.negative_prompt,
                image_prompts=image_prompts,
                seed=seed,
                steps=setting.steps,
                guidance_scale=setting.guidance_scale,
            )
            for sample, seed, image_prompts in zip(samples, seeds, prompts, strict=True)
        ]
        return self._engine_of(cell).generate(generations)

    def reconstruct(self, cell: CellPlan, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures through the base's autoencoder."""
        base = self._engine_of(cell).base
        mean, _ = base.encode_images(torch.stack([to_tensor(picture) for picture in self.cropped(cell, pictures)]))
        decoded = base.decode(base.scale_latents(mean))
        return [Image.fromarray(picture.numpy()) for picture in decoded]

    def cropped(self, cell: CellPlan, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures as the autoencoder is given them."""
        side = self._engine_of(cell).base.default_size_px
        return [centre_crop(picture, side) for picture in pictures]

    def _image_prompts(self, cell: CellPlan, references: list[Image.Image]) -> list[tuple[GuidedImagePrompt, ...]]:
        if cell.adapter is None or cell.scale is None:
            return [()] * len(references)
        if self._encoder is None:
            name = self.config.protocol.image_encoder
            assert name is not None
            self._encoder = load_image_encoder(name, self.device)
        adapter = self._adapter_of(cell.adapter, self._engine_of(cell).base)
        features = image_features(adapter, self._encoder, references)
        return [(prompt,) for prompt in guided_image_prompts(adapter, features, cell.scale)]

    def _adapter_of(self, name: str, base: Base) -> IPAdapter:
        if name not in self._adapters:
            self._adapters[name] = load_adapter(self.paths[name]).to(base.device)
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
            self._engine = None
            setting = self.config.sampling
            self._engine = Engine(load_base(cell.base, setting.precision, self.device), setting.max_rows)
        return self._engine
