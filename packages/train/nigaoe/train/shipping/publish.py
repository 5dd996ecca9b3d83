"""Describe a trained adapter with all that it came from, and publish it in a registry that servers read."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

from nigaoe.core.adapters.fetching import MANIFEST
from nigaoe.core.adapters.files import FILE_NAME, load_adapter
from nigaoe.core.errors import DataError
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.manifests import AdapterManifest, PreparedManifest, Training, read_adapter_manifest
from nigaoe.core.models import locate
from nigaoe.core.registry import Registry
from nigaoe.core.storage import absolute, join
from nigaoe.core.training_pictures import Recorded
from nigaoe.core.transfers import sha256_of
from nigaoe.train.config import TrainConfig
from nigaoe.train.preparing import hashes
from nigaoe.train.shipping.code_version import code_version
from nigaoe.train.watching.history import read_history, read_validations

_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")


def describe_adapter(
    config: TrainConfig,
    adapter: Path,
    dataset: str,
    prepared: PreparedManifest | None,
    trained_on: Recorded,
) -> AdapterManifest:
    """All that is known of a finished adapter. `dataset`: fingerprint; `prepared`: None where nothing was."""
    weights = load_adapter(adapter, config.adapter.variant)
    if prepared is None:
        encoder_hash: str = load_image_encoder(config.image_encoder).fingerprint()
        face_hash = None if config.face_encoder is None else hashes.face_encoder_hash(config.face_encoder)
    else:
        encoder_hash, face_hash = prepared.image_encoder_hash, prepared.face_encoder_hash
    return AdapterManifest(
        name=config.name,
        variant=weights.variant.name,
        num_tokens=weights.num_tokens,
        parameters=sum(x.numel() for x in weights.parameters()),
        sha256=sha256_of(str(adapter)),
        created=datetime.now(UTC).replace(microsecond=0),
        outline=weights.outline,
        training=Training(
            base=config.base,
            base_hash=base_hash(config.base),
            image_encoder=config.image_encoder,
            image_encoder_hash=encoder_hash,
            face_encoder=config.face_encoder,
            face_encoder_hash=face_hash,
            dataset=dataset,
            trained_on_sha256=None if trained_on.pictures is None else trained_on.pictures.sha256,
            trained_on_is_all=trained_on.gap is None,
            steps=config.steps,
            samples_seen=config.steps * config.batch_size,
            metrics=run_metrics(config.out),
            code_version=code_version(),
            recipe=config.model_dump(mode="json"),
        ),
    )


def publish_run(out: Path, registry: str, name: str | None = None) -> str:
    """Publish what a finished run left in its folder; returns where.

    Raises:
        ConfigError: As `Registry.publish`.
        DataError: As `Registry.publish`, or the run is not finished.
    """
    if not (out / MANIFEST).is_file():
        raise DataError(f"{str(out)!r} holds no finished run: it has no {MANIFEST}; give the `out` of one")
    manifest = read_adapter_manifest(out / MANIFEST)
    entry = Registry(registry).publish(out / FILE_NAME, manifest, name)
    return join(absolute(registry), entry.name)


def run_metrics(out: Path) -> dict[str, dict[str, float]]:
    """What a run's folder says of how good its adapter is, as `AdapterManifest.metrics`."""
    found: dict[str, dict[str, float]] = {}
    lines = read_history(out).lines
    if lines:
        last = {key: lines[-1].get(key) for key in ("step", "loss", "images_per_s")}
        found["training"] = {key: float(value) for key, value in last.items() if value is not None}
    validations = [{"step": float(one.step), **one.metrics} for one in read_validations(out) if one.failure is None]
    if validations:
        found["last"] = validations[-1]
        found["best"] = min(validations, key=lambda metrics: metrics.get("validation_loss", float("inf")))
    return found


def base_hash(base: str) -> str:
    """As `AdapterManifest.base_hash`; reads the UNet's files and loads nothing.

    Raises:
        BaseModelError: There is no such base.
    """
    place = locate(base)
    folder = Path(place) / "unet"
    if folder.is_dir():
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return f"sha256:{digest.hexdigest()[:16]}"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place, "unet/config.json")
    commit = _COMMIT.search(cached if isinstance(cached, str) else "")
    return f"commit:{commit[1] if commit else 'unknown'}"
