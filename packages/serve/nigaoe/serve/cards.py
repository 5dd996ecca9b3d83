"""What is told of an adapter."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nigaoe.core.adapter_names import Feature, VariantName
from nigaoe.core.manifests import AdapterManifest, AdapterOutline
from nigaoe.serve.orders import AdapterAt

Source = Literal["config", "registry"]


class TrainingCard(BaseModel):
    """What a trained adapter came from; paths of the machines that trained it are left out."""

    model_config = ConfigDict(frozen=True)

    base: str
    image_encoder: str
    face_encoder: str | None
    dataset: str
    """Fingerprint."""
    steps: int
    samples_seen: int
    metrics: dict[str, dict[str, float]]
    code_version: str


class AdapterCard(BaseModel):
    """An adapter that this server has."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    object: Literal["adapter"] = "adapter"
    name: str
    variant: VariantName
    reads: dict[Feature, int]
    """Width of each feature of a picture that it reads."""
    num_tokens: int
    """Image tokens per picture; 0: one per patch."""
    parameters: int
    sha256: str
    """Of its file."""
    created: AwareDatetime
    bases: list[str]
    """Those of this server that it fits."""
    source: Source
    """Only those of the registry can be replaced or deleted."""
    training: TrainingCard | None = None

    @classmethod
    def of(
        cls,
        name: str,
        manifest: AdapterManifest,
        outline: AdapterOutline,
        bases: tuple[str, ...],
        source: Source,
    ) -> Self:
        """Of a manifest."""
        origin = manifest.training
        return cls(
            name=name,
            variant=manifest.variant,
            reads=outline.features,
            num_tokens=manifest.num_tokens,
            parameters=manifest.parameters,
            sha256=manifest.sha256,
            created=manifest.created,
            bases=list(bases),
            source=source,
            training=None if origin is None else TrainingCard.model_validate(origin.model_dump()),
        )


class Offer(BaseModel):
    """An adapter as it can be asked for now."""

    model_config = ConfigDict(frozen=True)

    card: AdapterCard
    at: AdapterAt


def manifest_of_file(name: str, file: Path) -> AdapterManifest:
    """What a lone file says of itself.

    Raises:
        AdapterError: It is no whole adapter.
    """
    from nigaoe.core.adapters.vetting import describe_file

    found = describe_file(file, f"adapter file {str(file)!r}")
    return found.manifest(name, datetime.fromtimestamp(int(file.stat().st_mtime), UTC))
