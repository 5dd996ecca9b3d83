"""A validation: the loss of an adapter on held-out rows, and what it draws of held-out people."""

import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.atomic import write_whole
from nigaoe.core.bases import Base, load_base
from nigaoe.core.errors import DataError, NigaoeError
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner
from nigaoe.train.config import DropConfig, TrainConfig
from nigaoe.train.preparing.recipe import recipe_of
from nigaoe.train.preparing.rows import RowReader
from nigaoe.train.records.record import Record
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.features import FeatureEncoder
from nigaoe.train.validating.bands import band_losses
from nigaoe.train.validating.likeness import clip_vectors, face_vectors, likeness
from nigaoe.train.validating.pictures import Person, choose_people, draw, labelled_grid
from nigaoe.train.validating.rows import DecodedRow, batches, decode_rows, in_fixed_order
from nigaoe.train.watching.history import ValidationResult, grid_path, write_validation

NOTHING_DROPPED = DropConfig(image=0, text=0, both=0)


class NotFinite(NigaoeError):
    """The loss of an adapter is no number, so there is nothing to compare."""


Keep = Callable[[Sequence[Person], Sequence[Sequence[Image.Image]]], None]
"""Is given the people and what was drawn of each."""


def measure_adapter(
    path: Path,
    step: int,
    config: TrainConfig,
    records: Sequence[Record],
    device: torch.device,
    keep: Keep | None = None,
) -> ValidationResult:
    """Measure an adapter file on held-out rows; writes the result and its pictures, and returns it.

    The same file gives the same figures. `keep` is called before anything is written.

    Raises:
        NigaoeError: The adapter, the data or the loss is at fault, which a sentence says.
    """
    assert config.validation is not None
    settings, began = config.validation, time.monotonic()
    recipe = recipe_of(config)
    # Half precision is for devices that are faster in it.
    base = load_base(recipe.base, config.precision if device.type == "cuda" else "float32", device)
    adapter = load_adapter(path, recipe.variant_name).to(device).requires_grad_(False)
    encoder, reader = FeatureEncoder.load(recipe.variant, recipe.image_encoder, device), RowReader.load(recipe)
    faces, ordered = reader.pictures.face_encoder, in_fixed_order(records, settings.seed)
    rows = decode_rows(ordered, settings.loss_rows, reader, config.data)
    needs_clip = set(recipe.variant.inputs) != {"identity"}
    conditioner = Conditioner(encoder.image_encoder if needs_clip else None, faces)
    people = choose_people(ordered, settings.references, adapter, conditioner, settings.scale)
    if not rows or not people:
        raise DataError(
            f"no held-out picture of {config.data.source!r} can be used; have `nigaoe dataset check` look at them"
        )
    losses = _losses(rows, adapter, base, encoder, reader, settings.seed)
    if not all(map(math.isfinite, losses.values())):
        raise NotFinite(f"the loss at step {step} is no finite number; lower optimizer.lr")
    drawn = draw(people, base, settings, recipe.resolution_px)
    metrics = losses | likenesses(people, drawn, encoder.image_encoder, faces)
    if keep is not None:
        keep(people, drawn)
    _write_grid(labelled_grid(people, drawn, settings.prompts), grid_path(config.out, step))
    result = ValidationResult(
        step=step,
        metrics=metrics,
        loss_rows=len(rows),
        pictures=sum(map(len, drawn)),
        image_encoder=config.image_encoder,
        face_encoder=config.face_encoder,
        seconds=round(time.monotonic() - began, 3),
    )
    write_validation(config.out, result)
    return result


def _losses(
    rows: Sequence[DecodedRow], adapter: IPAdapter, base: Base, encoder: FeatureEncoder, reader: RowReader, seed: int
) -> dict[str, float]:
    """The plain squared error, whatever weights training gives it: figures of different recipes can be compared."""
    nothing = encoder.of_nothing(reader.pictures.face_encoder)
    objective = AdapterObjective(adapter, base, NOTHING_DROPPED, nothing)
    return band_losses(objective, batches(rows, base, encoder), len(rows), base.schedule.num_train_timesteps, seed)


def likenesses(
    people: Sequence[Person], drawn: Sequence[Sequence[Image.Image]], encoder: ImageEncoder, faces: FaceEncoder | None
) -> dict[str, float]:
    """CLIP-I of what was drawn; with a face encoder identity too, and the share of pictures that show it a face."""
    references, pictures = [person.picture for person in people], [picture for row in drawn for picture in row]
    identities, shape = [person.identity for person in people], (len(people), len(drawn[0]))
    own, theirs = (clip_vectors(encoder, some) for some in (references, pictures))
    metrics = likeness("clip_i", own, theirs.unflatten(0, shape), identities)
    if faces is None:
        return metrics
    own, theirs = (face_vectors(faces, some) for some in (references, pictures))
    metrics |= likeness("identity", own, theirs.unflatten(0, shape), identities)
    return metrics | {"faces_found": float((theirs.norm(dim=-1) > 0).double().mean())}


def _write_grid(grid: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    grid.save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
