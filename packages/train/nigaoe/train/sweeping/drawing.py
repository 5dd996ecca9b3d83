"""What the adapter of a run draws at another scale, measured as a validation does; every picture is kept by itself."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.train.config import TrainConfig
from nigaoe.train.records.splitting import held_out_records
from nigaoe.train.sweeping.page import PICTURES
from nigaoe.train.validating.likeness import clip_vectors, likeness
from nigaoe.train.validating.measure import measure_adapter
from nigaoe.train.validating.pictures import Person
from nigaoe.train.watching.history import ValidationResult, write_validation

_REFERENCE_PX = 512


def draw_at_scale(config: TrainConfig, scale: float, folder: Path, judge: str, device: torch.device) -> None:
    """Draw held-out people with a finished run's adapter, into `folder`.

    `judge`: image encoder of CLIP-I, for cells with encoders of their own would otherwise be told apart by those.
    """
    assert config.validation is not None
    settings = config.validation.model_copy(update={"scale": scale})
    there = config.model_copy(update={"out": folder, "validation": settings})
    judged: dict[str, float] = {}

    def keep(people: Sequence[Person], drawn: Sequence[Sequence[Image.Image]]) -> None:
        _write_pictures(people, drawn, folder / PICTURES)
        if judge != config.image_encoder:
            encoder = load_image_encoder(judge, device)
            references = clip_vectors(encoder, [person.picture for person in people])
            pictures = clip_vectors(encoder, [picture for row in drawn for picture in row])
            shaped = pictures.unflatten(0, (len(people), len(drawn[0])))
            judged.update(likeness("clip_i", references, shaped, [person.identity for person in people]))

    path = config.out / "adapter.safetensors"
    result = measure_adapter(path, config.steps, there, held_out_records(config.data), device, keep)
    if judged:
        update = {"metrics": result.metrics | judged, "image_encoder": judge}
        write_validation(folder, ValidationResult.model_validate(result.model_dump() | update))


def _write_pictures(people: Sequence[Person], drawn: Sequence[Sequence[Image.Image]], folder: Path) -> None:
    """`reference-<person>.png` and `<person>-<prompt>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (person, pictures) in enumerate(zip(people, drawn, strict=True)):
        reference = person.picture.copy()
        reference.thumbnail((_REFERENCE_PX, _REFERENCE_PX), Image.Resampling.LANCZOS)
        reference.save(folder / f"reference-{i:03d}.png")
        for j, picture in enumerate(pictures):
            picture.save(folder / f"{i:03d}-{j:03d}.png")
