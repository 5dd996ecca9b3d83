"""Finished runs with records of their training pictures, and weights that nobody reads."""

from datetime import UTC, datetime
from pathlib import Path

from nigaoe.core.manifests import AdapterManifest, Training, write_json
from nigaoe.core.training_pictures import TRAINED_ON, TrainingPictures
from nigaoe.core.transfers import sha256_of


def leave_run(folder: Path, pictures: TrainingPictures | None, *, is_all: bool = True) -> Path:
    """Write what `nigaoe train` leaves; returns the adapter file."""
    weights = folder / "adapter.safetensors"
    weights.write_bytes(b"weights")
    if pictures is not None:
        pictures.write(folder / TRAINED_ON)
    training = Training(
        base="toy/photo",
        base_hash="",
        image_encoder="toy/image_encoder",
        image_encoder_hash="",
        face_encoder=None,
        face_encoder_hash=None,
        dataset="",
        trained_on_sha256=None if pictures is None else pictures.sha256,
        trained_on_is_all=is_all,
        steps=1,
        samples_seen=1,
        metrics={},
        code_version="0",
        recipe={},
    )
    described = AdapterManifest(
        name="a",
        variant="base",
        num_tokens=4,
        parameters=1,
        sha256=sha256_of(str(weights)),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        training=training,
    )
    write_json(described, folder / "adapter.json")
    return weights
