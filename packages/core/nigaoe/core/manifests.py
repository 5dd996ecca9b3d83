"""What passes between packages as files: a prepared dataset, and what an adapter is. No torch here."""

from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nigaoe.core.adapter_names import Feature, LoraTarget, VariantName
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
    [n, I]), `token_ids` int32 [n, captions, T], `num_captions` int32 [n], `time_ids` int32 [n, views, 6], names of
    rows as UTF-8 in `keys`, that of row i up to `key_ends[i]`, and `contents` uint8 [n, 2, 16], the digests of the
    picture to be learnt and of the one that prompts, zeros where that is no other. `index-FINGERPRINT` says whose rows
    they are, and `features-FINGERPRINT` what is read of no picture.
    """

    version: Literal[2, 3] = 3
    """2: without `contents`."""
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


class LayerOutline(_Manifest):
    """Widths of what an adapter has for one attention layer."""

    key_value: tuple[int, int] | None = None
    """(in, out) of its keys and values; None where the layer is self-attention."""
    lora: dict[LoraTarget, tuple[int, int, int]] = {}
    """(in, rank, out) by the projection that it adds to."""


class AdapterOutline(_Manifest):
    """Widths of an adapter: enough to say without its weights what it fits."""

    cross_attention_dim: int
    """Of its image tokens, and of the text of bases that it fits."""
    features: dict[Feature, int]
    """Width of each feature that it reads."""
    layers: dict[int, LayerOutline]
    """By published index."""


class Training(_Manifest):
    """All that a trained adapter came from."""

    base: str
    base_hash: str
    """Of the UNet's weight files, `sha256:...`; of a model of the hub the revision, `commit:...`."""
    image_encoder: str
    image_encoder_hash: str
    face_encoder: str | None
    face_encoder_hash: str | None
    dataset: str
    """Fingerprint of the rows that it was trained on."""
    trained_on_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of `trained_on.bin` beside it, the digests of their pictures; None where nobody knows those."""
    trained_on_is_all: bool = False
    """False: there is no record, or it began with an adapter of which nobody knows all that that one was trained on."""
    steps: int
    samples_seen: int
    metrics: dict[str, dict[str, float]]
    """Of the last steps (`training`), of the last validation (`last`) and of the one with the lowest loss (`best`);
    of an adapter that was promoted the figures that let it pass (`promotion`), by cell and metric."""
    code_version: str
    """Of this package, with the commit where it is a checkout."""
    recipe: dict[str, object]
    """The resolved training config."""


class AdapterManifest(_Manifest):
    """`adapter.json` beside an adapter: what it is, and what it came from if it was trained here."""

    version: Literal[3] = 3
    name: str
    """Of the run, or the one that it was uploaded under."""
    variant: VariantName
    num_tokens: int
    """Image tokens per picture; 0: one per patch."""
    parameters: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the file."""
    created: AwareDatetime
    outline: AdapterOutline | None = None
    """None in manifests of version 2, which did not say."""
    training: Training | None = None
    """None of an adapter that was uploaded."""
    folder: str | None = Field(None, pattern="^versions/[0-9a-f]{12}(-[0-9]{1,4})?$")
    """Where in its registry this version lies, if not in the folder named after its hash."""

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, values: Any) -> Any:
        """Version 2 was of trained adapters alone, and had their origin among the rest."""
        if not isinstance(values, dict) or values.get("version") != 2:
            return values
        training = {key: values[key] for key in Training.model_fields if key in values}
        rest = {key: value for key, value in values.items() if key not in training}
        return {**rest, "version": 3, "training": training}


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
    return parse_adapter_manifest(path.read_bytes(), str(path))


def parse_adapter_manifest(text: bytes, where: str) -> AdapterManifest:
    """Content of an `adapter.json`; `where`: how messages name it.

    Raises:
        DataError: It is none, or of another version.
    """
    try:
        return AdapterManifest.model_validate_json(text)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise DataError(
            f"{where!r} cannot be read ({place}: {error.errors()[0]['msg'].lower()}); "
            "finish the run with this version of nigaoe"
        ) from None
