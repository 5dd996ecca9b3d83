"""What an evaluation is asked to do. No torch here."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nigaoe.core.config import Config

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class ToyProtocolConfig(Config):
    """Held-out people of the toy world, whose attributes are known."""

    kind: Literal["toy"]
    n: int = Field(default=400, ge=2)
    """People per cell."""
    photo_base: str = "toy/photo"
    """Base that draws photos: the one that adapters are trained on."""
    anime_base: str = "toy/anime"
    """Base that draws anime, which no adapter has met."""
    yardstick_n: int = Field(default=400, ge=2)
    """Pictures of training people, per style, that Frechet distances are taken to."""

    @property
    def image_encoder(self) -> str:
        """What adapters look through."""
        return "toy/image_encoder"

    @property
    def clip(self) -> str:
        """The CLIP that scores; never the one that adapters look through."""
        return "toy/clip"


class FolderProtocolConfig(Config):
    """A folder of reference pictures times a list of prompts, on bases of any origin."""

    kind: Literal["folder"]
    references: Path
    """Folder of JPEG, PNG or WebP files, one face each."""
    prompts: list[str] = Field(min_length=1)
    bases: dict[Slug, str] = Field(min_length=1)
    """Name in the report to hub id or folder."""
    image_encoder: str
    """What adapters look through: hub id or folder."""
    clip: str
    """CLIP that scores: hub id or folder."""


ProtocolConfig = Annotated[ToyProtocolConfig | FolderProtocolConfig, Field(discriminator="kind")]


class SamplingConfig(Config):
    """How pictures are generated."""

    steps: int = Field(default=20, ge=1)
    guidance_scale: float = 3.0
    adapter_scale: float = Field(default=1.0, ge=0.0)
    negative_prompt: str = ""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_rows: int = Field(default=16, ge=1)
    """Pictures per UNet call."""


class ThresholdConfig(Config):
    """A demand on one figure."""

    cell: str
    metric: str
    at: Literal[">=", "<="]
    bound: float


class EvalConfig(Config):
    """`nigaoe eval CONFIG`."""

    title: str = "Evaluation"
    out: Path
    """Receives report.json, report.html, grid.png, samples.csv and shards/."""
    protocol: ProtocolConfig
    adapters: dict[Slug, str] = {}
    """Name in the report to a file, a folder with adapter.safetensors, or `toy/adapter`; the first is under test."""
    sampling: SamplingConfig = SamplingConfig()
    seed: int = 0
    shard_size: int = Field(default=16, ge=1)
    """Pictures per shard: the unit of work, of resuming and of batching. Never depends on the number of workers."""
    pictures: int = Field(default=8, ge=1)
    """Rows of the picture grid."""
    workers: int = Field(default=1, ge=1)
    gpus_per_worker: float = Field(default=0.0, ge=0.0)
    """0: workers run on one CPU core each."""
    ray_address: str | None = None
    """Cluster to join; None: the one of RAY_ADDRESS, or a local one for the length of the run."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """How long to wait for the first worker."""
    thresholds: list[ThresholdConfig] = []
    notes: list[str] = []
    """Sentences for the report: how long the adapter was trained, on what."""

    @model_validator(mode="after")
    def _names_are_unambiguous(self) -> Self:
        if "none" in self.adapters:
            raise ValueError("an adapter cannot be called 'none', the name of cells without one")
        return self
