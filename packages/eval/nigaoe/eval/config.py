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
    obedience: bool = True
    """Whether adapters are also asked for a red background, which the reference does not have."""

    @property
    def image_encoder(self) -> str:
        """What adapters look through."""
        return "toy/image_encoder"

    @property
    def clip(self) -> str:
        """The CLIP that scores; never the one that adapters look through."""
        return "toy/clip"


class FolderProtocolConfig(Config):
    """A folder of reference pictures times a list of prompts, on bases of any origin or on none."""

    kind: Literal["folder"]
    references: Path
    """Folder of JPEG, PNG or WebP files, one face each."""
    prompts: list[str] = Field(min_length=1)
    bases: dict[Slug, str] = {}
    """Name in the report to hub id or folder; none where all pictures come from folders and servers."""
    image_encoder: str | None = None
    """What adapters look through: hub id or folder."""
    clip: str
    """CLIP that scores: hub id or folder."""


ProtocolConfig = Annotated[ToyProtocolConfig | FolderProtocolConfig, Field(discriminator="kind")]


class SamplingConfig(Config):
    """How pictures are generated."""

    steps: int = Field(default=20, ge=1)
    guidance_scale: float = 3.0
    adapter_scale: float = Field(default=1.0, ge=0.0)
    scales: list[Annotated[float, Field(ge=0.0)]] = []
    """Further scales, for the curve of likeness against obedience; each adapter is drawn at each of them, too."""
    negative_prompt: str = ""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_rows: int = Field(default=16, ge=1)
    """Pictures per UNet call."""


class MetricsConfig(Config):
    """What looks at the pictures, besides the protocol's own CLIP and, in the toy world, its judge."""

    features: list[str] = []
    """Further networks under distances of distributions: `efficientnet_lite0`, `inception:FILE`, `clip:NAME`, ..."""
    dino: str | None = None
    """Hub id or folder of a DINO or DINOv2: DINO-I."""
    face_encoder: str | None = None
    """`dlib`, `insightface`, `insightface:ROOT` or `onnx:FILE`: identity by recognition."""
    lpips: Path | None = None
    """torchvision's `vgg16-397923af.pth`: LPIPS of reconstructions."""
    keep_features: int = Field(default=10_000, ge=0)
    """Samples of a cell whose features are kept for KID, precision and the like; beyond, moments will do."""


class FolderTarget(Config):
    """Pictures that somebody else has made, `<sample>.png`; `nigaoe eval export CONFIG` says of what."""

    pictures: Path
    like: str | None = None
    """The cell whose samples they are of, such as `anime-adapter`; None: every reference times every prompt."""


class ServerTarget(Config):
    """A running server with OpenAI's `/v1/images/edits`, nigaoe's or another's."""

    url: str = Field(pattern="^https?://")
    like: str | None = None
    """The cell whose samples it is asked for; None: every reference times every prompt."""
    fields: dict[str, str | int | float] = {}
    """Sent with every order beside `image`, `prompt` and `seed`: `base`, `adapter`, `adapter_scale`, `size`, ..."""
    api_key_env: str = "NIGAOE_API_KEY"
    """Environment variable with the key, where the server wants one."""
    in_flight: int = Field(default=8, ge=1)
    """Orders at a time, per worker."""
    timeout_s: float = Field(default=300.0, gt=0)
    tries: int = Field(default=5, ge=1)


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
    """Receives report.json, report.html, grid.png, samples.csv, manifest.json and shards/."""
    protocol: ProtocolConfig
    adapters: dict[Slug, str] = {}
    """Name in the report to a file, a folder with adapter.safetensors, or `toy/adapter`; the first is under test."""
    folders: dict[Slug, FolderTarget] = {}
    """Name in the report to pictures made elsewhere."""
    servers: dict[Slug, ServerTarget] = {}
    """Name in the report to a server that is to draw."""
    metrics: MetricsConfig = MetricsConfig()
    sampling: SamplingConfig = SamplingConfig()
    seed: int = 0
    seeds: int = Field(default=1, ge=1)
    """Pictures of every sample, each from its own noise; with several, diversity is told. shard_size is a multiple."""
    shard_size: int = Field(default=16, ge=1)
    """Pictures per shard: the unit of work, of resuming and of batching. Never depends on the number of workers."""
    pictures: int = Field(default=8, ge=1)
    """Rows of each picture grid."""
    keep_images: bool = False
    """Whether every picture is written to `images/<cell>/<sample>.png`."""
    thumbnails: int = Field(default=2000, ge=0)
    """Samples of a cell of which a small picture is kept, from which the best and the worst are shown."""
    cache: Path | None = None
    """Where features of real pictures are kept between runs; None: beside the cached adapters."""
    wandb_project: str | None = None
    """Logs the report and its pictures to Weights & Biases; offline unless WANDB_MODE says otherwise."""
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
        systems = [*self.adapters, *self.folders, *self.servers]
        if "none" in systems:
            raise ValueError("an adapter cannot be called 'none', the name of cells without one")
        if self.shard_size % self.seeds:
            raise ValueError(f"shard_size {self.shard_size} must be a multiple of seeds {self.seeds}")
        twice = sorted({name for name in systems if systems.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} names two systems; give each a name of its own")
        return self

    @model_validator(mode="after")
    def _somebody_draws(self) -> Self:
        if not isinstance(self.protocol, FolderProtocolConfig):
            return self
        if not (self.protocol.bases or self.folders or self.servers):
            raise ValueError("there are no pictures to score; name bases that draw, or folders or servers that have")
        if self.adapters and not (self.protocol.bases and self.protocol.image_encoder):
            raise ValueError(
                f"adapters {', '.join(self.adapters)} have nothing to draw with; name protocol.bases and "
                "protocol.image_encoder"
            )
        return self
