"""One config for `nigaoe prepare` and `nigaoe train`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from nigaoe.core.adapters.variants import Variant, variant_named
from nigaoe.core.config import Config


class DataConfig(Config):
    """Where the pictures are and how they are used."""

    source: Path
    """A captions file: the original IP-Adapter JSON, or a CSV with an `ID` column."""
    image_root: Path | None = None
    """Folder that file names are relative to; the captions file's own when absent."""
    caption_columns: list[str] | None = None
    """CSV columns or JSON keys that hold captions; every `caption_*` (JSON: `text`) when absent."""
    resolution_px: int | None = Field(None, ge=16)
    """Side of the training pictures; the base's own when absent."""
    prepared: Path
    """Folder for cached latents and embeddings."""
    shard_rows: int = Field(512, ge=1)
    """Rows per file: what is encoded at once, and the most that a crash loses."""
    reference: Literal["same", "other"] = "same"
    """Which picture prompts: the target itself, or another one of the same `identity` where there is one.
    With `other` the adapter carries the person and leaves background and pose to the text."""


class AdapterConfig(Config):
    """What is trained."""

    variant: str = "base"
    """Architecture, by its own name or by that of a published file: `base`, `plus`, `plus-face`, `faceid`, ..."""
    num_tokens: int | None = Field(None, ge=1)
    """Image tokens per picture; as published when absent."""

    @field_validator("variant")
    @classmethod
    def _exists(cls, name: str) -> str:
        variant_named(name)
        return name

    @model_validator(mode="after")
    def _counts_tokens(self) -> Self:
        if self.num_tokens is not None and not self.kind.num_tokens:
            raise ValueError(f"variant {self.variant!r} has one token per patch of the picture; leave num_tokens out")
        return self

    @property
    def kind(self) -> Variant:
        """The variant."""
        return variant_named(self.variant)


class OptimizerConfig(Config):
    """AdamW; the defaults are the published recipe's."""

    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    max_grad_norm: float = Field(1.0, gt=0)


class DropConfig(Config):
    """Probabilities of dropping a condition, mutually exclusive, so that guidance has something to guide from."""

    image: float = Field(0.05, ge=0, le=1)
    text: float = Field(0.05, ge=0, le=1)
    both: float = Field(0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        total = self.image + self.text + self.both
        if total > 1:
            raise ValueError(f"image, text and both add up to {total:g}, which is more than 1; lower them")
        return self


class TimestepBiasConfig(Config):
    """Draw some timesteps more often than others, in the words of diffusers' SDXL trainer."""

    strategy: Literal["none", "earlier", "later"] = "none"
    multiplier: float = Field(1.0, gt=0)
    """How many times as often each of the biased timesteps is drawn as each of the rest."""
    portion: float = Field(0.25, gt=0, le=1)
    """Share of all timesteps that is biased: the noisiest (`later`) or the least noisy (`earlier`)."""


class ClusterConfig(Config):
    """What the job asks Ray for."""

    address: str | None = None
    """Address of a running cluster, or `auto`; a cluster on this machine when absent."""
    num_workers: int = Field(2, ge=1)
    use_gpu: bool = False
    cpus_per_worker: float = Field(1, gt=0)
    max_failures: int = Field(3, ge=-1)
    """Restarts from the last checkpoint before giving up; -1: without end."""
    zero_stage: Literal[0, 1, 2] = 2
    """An adapter's weights are few, so they are never sharded; what ZeRO splits is optimizer state and gradients."""


class TrackingConfig(Config):
    """Weights & Biases. Offline unless asked, so nobody meets a login prompt."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "nigaoe"


class TrainConfig(Config):
    """A training job."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The same name continues the same run."""
    out: Path
    """Folder for checkpoints, logs and the finished adapter."""
    base: str
    """Frozen base: a hub id, a folder, `toy/photo` or `toy/anime`."""
    image_encoder: str
    face_encoder: str | None = None
    """For variants that read an identity: `insightface`, `insightface:ROOT`, `onnx:FILE` or `dlib`."""
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    init_from: Path | None = None
    """Adapter file to start from; copies of the base's own keys and values when absent, as published."""
    steps: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    """Per worker."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen base's products; the adapter and its optimizer stay float32."""
    optimizer: OptimizerConfig = OptimizerConfig()
    drop: DropConfig = DropConfig()
    timestep_bias: TimestepBiasConfig = TimestepBiasConfig()
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Publish an exponential average of the weights instead of the last ones."""
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    seed: int = 0
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _has_the_encoders(self) -> Self:
        variant = self.adapter.variant
        reads_identity = "identity" in self.adapter.kind.inputs
        if reads_identity and self.face_encoder is None:
            raise ValueError(f"variant {variant!r} reads an identity; name the recogniser in face_encoder")
        if not reads_identity and self.face_encoder is not None:
            raise ValueError(
                f"variant {variant!r} reads no identity, so nothing asks {self.face_encoder!r}; leave face_encoder out"
            )
        return self
