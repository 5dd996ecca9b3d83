"""What passes between packages as files: a prepared dataset and a trained adapter's origin."""

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from nigaoe.core.adapters.variants import VariantName
from nigaoe.core.errors import DataError


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreparedBucket(_Manifest):
    """Pictures of one shape."""

    height: int
    """Px."""
    width: int
    rows: int


class PreparedShard(_Manifest):
    """One file of a prepared dataset."""

    file: str
    bucket: int
    rows: int


class PreparedManifest(_Manifest):
    """`manifest.json` of a prepared dataset: everything that made it, by name and hash.

    Row r of bucket b is the r-th row of the shards of b, in order; all buckets one after the other number the rows of
    the dataset. A shard is a safetensors file of `latent_mean` and `latent_logvar` float16 [n, views, C, h, w], the
    features that are read of the picture that prompts (`image_embeds` [n, E], `hidden_states` [n, N, D], `identity`
    [n, I]), `token_ids` int32 [n, captions, T], `num_captions` int32 [n], `time_ids` int32 [n, views, 6], and names of
    rows as UTF-8 in `keys`, that of row i up to `key_ends[i]`. `index-FINGERPRINT` says whose rows they are, and
    `features-FINGERPRINT` what is read of no picture.
    """

    version: Literal[2] = 2
    fingerprint: str
    """Of all rows and shards, in order."""
    source: str
    source_fingerprint: str
    """Of what lists the pictures."""
    columns: dict[str, str | list[str] | None]
    """Of the source, as the config named them."""
    split_sha256: str | None
    held_out_rows: int
    """Rows of the source that the split keeps out."""
    quarantine_sha256: str | None
    base: str
    vae_hash: str
    tokenizer_hash: str
    image_encoder: str
    image_encoder_hash: str
    face_encoder: str | None
    face_encoder_hash: str | None
    reading: str
    """What is read of pictures, in words."""
    resolution_px: int
    aspect_ratios: int
    views: int
    augment: list[str]
    preprocessing_hash: str
    """Of views and of the preprocessing of both encoders."""
    rows: int
    conditioned_rows: int
    """Rows whose prompting picture the source names."""
    identities: int
    buckets: list[PreparedBucket]
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
        text = path.read_text(encoding="utf-8")
        if '"version": 1,' in text[:40]:
            raise DataError(
                f"{str(path)!r} was written by an older nigaoe; run `nigaoe prepare` with this config again"
            )
        return PreparedManifest.model_validate_json(text)
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
