"""What `nigaoe serve` is told. No torch and no Ray here."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from nigaoe.core.config import Config


class EngineConfig(Config):
    """One replica's engine, and how many requests may wait for it."""

    max_rows: int = Field(16, ge=1)
    """Pictures stepped in one UNet call."""
    runner: Literal["eager", "packed", "compiled", "graphed"] | None = None
    """How the UNet is called; null: the fastest that needs no warm-up. `graphed`, CUDA graphs of compiled code, is the
    fastest on a GPU and takes minutes of warm-up."""
    max_ongoing_requests: int = Field(64, ge=1)
    """Requests inside one replica; more wait outside."""
    max_queued_requests: int = Field(256, ge=1)
    """Requests that wait for a replica; one more is answered with 503."""
    cached_image_prompts_mib: int = Field(512, ge=1)
    """Image prompts kept ready, per picture, adapter and scale."""


class Defaults(Config):
    """What holds where a request says nothing."""

    steps: int = Field(25, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    adapter_scale: float = Field(1.0, ge=0)


class Limits(Config):
    """Beyond these a request is refused before any work is done for it."""

    body_mb: float = Field(20.0, gt=0)
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
    request_s: float = Field(600.0, gt=0)
    """Seconds until a request is given up with 504."""


class Autoscaling(Config):
    """How many replicas, and how much work one should have."""

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(8.0, gt=0)
    """Requests per replica that scaling aims at; about half of `engine.max_rows` where most ask for one picture."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; raise it")
        return self


class ServeConfig(Config):
    """A server: bases of one architecture, an image encoder and adapters, all held by every replica."""

    bases: list[str] = Field(min_length=1)
    """Names as for `load_base`; the first is the default."""
    image_encoder: str | None = None
    """Needed as soon as there is an adapter."""
    adapters: dict[str, str | Path] = {}
    """Name to a file, a folder of a registry, or that folder's address (`s3://bucket/registry/name`), of which replicas
    take what was published last when they start; the first is the default. Each must fit every base."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that one replica reserves."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs that one replica reserves; 0 runs on the CPU."""
    engine: EngineConfig = EngineConfig()
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    autoscaling: Autoscaling = Autoscaling()
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free one."""
    ready_file: Path | None = None
    """JSON with `url` and `pid`, written once requests are answered and removed at the end."""
    ready_timeout_s: float = Field(900.0, gt=0)
    """Loading included."""
    drain_s: float = Field(30.0, ge=0)
    """Seconds that requests under way have to finish when a replica is stopped."""
    ray_address: str | None = None
    """None starts a local Ray; otherwise `auto` or an address of a running cluster."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.adapters and self.image_encoder is None:
            raise ValueError("adapters need an image_encoder; name the one they were trained with")
        shared = sorted(set(self.bases) & set(self.adapters))
        if shared or len(set(self.bases)) < len(self.bases):
            raise ValueError(f"names of bases and adapters must differ ({', '.join(shared or self.bases)}); rename one")
        if self.defaults.steps > self.limits.steps:
            raise ValueError(f"defaults.steps {self.defaults.steps} exceeds limits.steps {self.limits.steps}; lower it")
        return self
