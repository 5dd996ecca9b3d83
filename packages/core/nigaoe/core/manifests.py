"""What passes between packages as files: a prepared dataset and a trained adapter's origin."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nigaoe.core.adapters.variants import VariantName
from nigaoe.core.errors import DataError


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreparedShard(_Manifest):
    """One file of a prepared dataset."""

    file: str
    rows: int


class PreparedManifest(_Manifest):
    """`manifest.json` of a prepared dataset: everything that made it, by name and hash.

    A shard is a safetensors file of `latent_mean` and `latent_logvar` [n, C, h, w], `image_embeds` [n, E],
    `token_ids` [n, captions, T], `num_captions` [n] and `identity` [n] (rows of one person share a number).
    """

    version: Literal[1] = 1
    source: str
    captions_sha256: str
    """Of the captions file."""
    fingerprint: str
    base: str
    image_encoder: str
    image_encoder_hash: str
    resolution_px: int
    rows: int
    identities: int
    shards: list[PreparedShard]


class AdapterManifest(_Manifest):
    """`adapter.json` beside a trained adapter."""

    version: Literal[1] = 1
    variant: VariantName
    base: str
    image_encoder: str
    image_encoder_hash: str
    num_tokens: int
    steps: int
    samples_seen: int
    parameters: int
    sha256: str
    config: dict[str, object]
    """The resolved training config."""


def write_json(model: BaseModel, path: Path) -> None:
    """Write a model as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(model.model_dump_json(indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def read_prepared(folder: Path) -> PreparedManifest:
    """Manifest of a prepared dataset.

    Raises:
        DataError: Missing or of another version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(
            f"prepared dataset {str(folder)!r} has no manifest.json; run `nigaoe prepare` with this config first"
        )
    try:
        return PreparedManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({error.errors()[0]['msg']}); run `nigaoe prepare` again"
        ) from None
