"""What `nigaoe serve` is told. No torch and no Ray here."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from nigaoe.core.config import Config
from nigaoe.serve.orders import Sampler


class EngineConfig(Config):
    """One replica's engine, and how many requests may wait for it."""

    max_rows: int = Field(16, ge=1)
    """Pictures stepped in one UNet call."""
    max_active_rows: int = Field(64, ge=1)
    """Pictures under way at once, in turns where they do not share a call; more wait, by priority."""
    runner: Literal["eager", "packed", "compiled", "graphed"] | None = None
    """How the UNet is called; null: the fastest that needs no warm-up. `graphed`, CUDA graphs of compiled code, is the
    fastest on a GPU and takes minutes of warm-up."""
    max_ongoing_requests: int = Field(64, ge=1)
    """Requests inside one replica, those that wait for their turn counted; more wait outside."""
    max_queued_requests: int = Field(256, ge=1)
    """Requests that wait outside; one more is answered with 429."""
    memory_gib: float | None = Field(None, gt=0)
    """For weights of bases and adapters; what was not asked for longest leaves. Null: all that are named stay."""
    cached_image_prompts_mib: int = Field(512, ge=1)
    """Image prompts kept ready, per picture, adapter and scale."""
    heartbeat_s: float = Field(120.0, gt=0)
    """A step that takes longer means a device that hangs: the replica is replaced."""


class Preset(Config):
    """What a word of `quality` stands for."""

    steps: int = Field(ge=1)
    sampler: Sampler = "ddim"
    guidance_scale: float | None = Field(None, ge=0)


class Defaults(Config):
    """What holds where a request says nothing."""

    steps: int = Field(25, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    adapter_scale: float = Field(1.0, ge=0)
    sampler: Sampler = "ddim"
    quality: dict[str, Preset] = {
        "low": Preset(steps=8, sampler="dpmpp_2m_karras"),
        "medium": Preset(steps=20, sampler="dpmpp_2m_karras"),
        "high": Preset(steps=40, sampler="dpmpp_2m_karras"),
        "lcm": Preset(steps=4, sampler="lcm", guidance_scale=1.0),
    }
    """Presets of steps and sampler; `lcm` is for bases that are distilled to few steps, such as LCM-LoRA merged in."""


class Limits(Config):
    """Beyond these a request is refused before any work is done for it."""

    body_mb: float = Field(20.0, gt=0)
    body_s: float = Field(30.0, gt=0)
    """Seconds within which a body must have come."""
    adapter_mb: float = Field(2048.0, gt=0)
    """Of an adapter that is uploaded."""
    images: int = Field(8, ge=1)
    """Pictures in one request."""
    image_prompts: int = Field(4, ge=1)
    image_pixels: int = Field(16_000_000, ge=1)
    """Width times height of an upload."""
    image_aspect_ratio: float = Field(16.0, ge=1)
    """Long side over short side. The encoder enlarges the short side, so a thin strip would claim gigabytes."""
    n: int = Field(10, ge=1)
    steps: int = Field(200, ge=1)
    width: int = Field(1024, ge=1)
    height: int = Field(1024, ge=1)
    guidance_scale: float = Field(30.0, ge=0)
    adapter_scale: float = Field(2.0, ge=0)
    prompt_characters: int = Field(8000, ge=1)
    partial_images: int = Field(3, ge=0)
    request_s: float = Field(600.0, gt=0)
    """Seconds until a request is given up with 504; one that cannot be done by then is answered with 429 at once."""


class KeyConfig(Config):
    """One caller. The key itself stands nowhere."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """For logs and metrics."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the key, in hexadecimal; `nigaoe serve-key NAME` makes both."""
    rate: str | None = None
    """As `60/minute`; the server's own `rate` when absent."""
    priority: int = 0
    may_manage: bool = False
    """Upload and delete adapters."""


class Access(Config):
    """Who may ask, and how often."""

    keys: list[KeyConfig] = []
    """Without keys, neither here nor in the environment's NIGAOE_API_KEYS, everybody may ask."""
    keys_file: Path | None = None
    """YAML list of keys as above, read again when it changes."""
    rate: str | None = None
    """Most requests of a key, or of an address where there are no keys, as `60/minute`."""
    rate_storage: str = "memory://"
    """Where counts are kept, as the package limits names it; `redis://...` lets several ingresses count together."""
    cors_origins: list[str] = []
    """Pages of other origins that may ask from a browser."""


class Storage(Config):
    """Folders or buckets that all replicas share and that outlive them."""

    registry: str | None = None
    """Adapters that come and go; where `nigaoe publish` and uploads put them. Null: those of `adapters` alone."""
    objects: str = "runs/serve/objects"
    """Embeddings, results that are fetched by address, and jobs."""
    results_hours: float = Field(24.0, gt=0)
    """How long results and finished jobs are kept."""


class Autoscaling(Config):
    """How many replicas, and how much work one should have."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    wait_s: float = Field(10.0, gt=0)
    """Seconds of work that may wait at each replica before another is started."""
    cold_start_s: float = Field(60.0, gt=0)
    """Seconds until a new replica draws."""
    idle_s: float = Field(300.0, gt=0)
    """Seconds with less work before a replica is given up."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; raise it")
        return self


class Watching(Config):
    """What operators see."""

    log_format: Literal["json", "text"] = "json"
    otlp_endpoint: str | None = None
    """Where spans go, as `http://host:4318`; needs the OpenTelemetry SDK. Null: nowhere."""
    metrics_port: int | None = Field(None, ge=1, le=65535)
    """Where Prometheus finds the figures of all processes of a local Ray, at `/metrics`; a running cluster has its own
    port for each node. Null: a free one, which Ray chooses."""


class ServeConfig(Config):
    """A server: bases of one architecture, an image encoder and adapters."""

    bases: list[str] = Field(min_length=1)
    """Names as for `load_base`; the first is the default."""
    image_encoder: str | None = None
    """Needed as soon as there is an adapter."""
    face_encoder: str | None = None
    """For adapters that read an identity: `insightface`, `insightface:ROOT`, `onnx:FILE` or `dlib`."""
    adapters: dict[str, str | Path] = {}
    """Name to a file, a folder of a registry, or that folder's address (`s3://bucket/registry/name`); the first is the
    default. They stand beside those of `storage.registry`."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that one replica reserves."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs that one replica reserves; 0 runs on the CPU."""
    ingresses: int = Field(1, ge=1)
    """Processes that speak HTTP."""
    engine: EngineConfig = EngineConfig()
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    access: Access = Access()
    storage: Storage = Storage()
    autoscaling: Autoscaling = Autoscaling()
    watching: Watching = Watching()
    safety: str | None = None
    """A hook `module:function` that is given each finished picture (PIL) and returns it, another, or None to refuse."""
    watermark: str | None = Field(None, max_length=32)
    """Text hidden in every picture; needs the package invisible-watermark."""
    playground: bool = True
    """A page at `/` to try everything on."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free one."""
    ready_file: Path | None = None
    """JSON with `url` and `pid`, written once requests are answered and removed at the end."""
    ready_timeout_s: float = Field(900.0, gt=0)
    """Loading included."""
    drain_s: float = Field(630.0, ge=0)
    """Seconds that requests under way have to finish when a replica is stopped; longer than `limits.request_s`."""
    ray_address: str | None = None
    """None starts a local Ray; otherwise `auto` or an address of a running cluster."""

    def local_url(self, port: int) -> str:
        """As processes of the same machine reach it."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{port}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.adapters or self.storage.registry) and self.image_encoder is None and self.face_encoder is None:
            raise ValueError("adapters need an image_encoder; name the one they were trained with")
        shared = sorted(set(self.bases) & set(self.adapters))
        if shared or len(set(self.bases)) < len(self.bases):
            raise ValueError(f"names of bases and adapters must differ ({', '.join(shared or self.bases)}); rename one")
        if self.drain_s < self.limits.request_s:
            raise ValueError(
                f"drain_s {self.drain_s:g} is shorter than limits.request_s {self.limits.request_s:g}, so that a stop "
                "would cut requests off; raise it"
            )
        if self.defaults.steps > self.limits.steps:
            raise ValueError(f"defaults.steps {self.defaults.steps} exceeds limits.steps {self.limits.steps}; lower it")
        return self
