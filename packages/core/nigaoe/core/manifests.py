"""What passes between packages as files: a prepared dataset and a trained adapter's origin."""

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

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
    """`adapter.json` beside a trained adapter: what it is, and all that it came from."""

    version: Literal[2] = 2
    name: str
    """Of the run."""
    variant: VariantName
    num_tokens: int
    """Image tokens per picture; 0: one per patch."""
    parameters: int
    sha256: str
    """Of the file."""
    base: str
    base_hash: str
    """Of the UNet's weight files, `sha256:...`; of a model of the hub the revision, `commit:...`."""
    image_encoder: str
    image_encoder_hash: str
    face_encoder: str | None
    face_encoder_hash: str | None
    dataset: str
    """Fingerprint of the rows that it was trained on."""
    steps: int
    samples_seen: int
    metrics: dict[str, dict[str, float]]
    """Of the last steps (`training`), of the last validation (`last`) and of the one with the lowest loss (`best`)."""
    code_version: str
    """Of this package, with the commit where it is a checkout."""
    created: AwareDatetime
    recipe: dict[str, object]
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


def read_adapter_manifest(path: Path) -> AdapterManifest:
    """`adapter.json` of a finished run or of a registry.

    Raises:
        DataError: Missing, or of another version.
    """
    if not path.is_file():
        raise DataError(f"{str(path)!r} does not exist; `nigaoe train` writes it when a run is finished")
    try:
        return AdapterManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DataError(
            f"{str(path)!r} cannot be read ({where}: {error.errors()[0]['msg'].lower()}); "
            "finish the run with this version of nigaoe"
        ) from None
