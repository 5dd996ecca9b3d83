"""One config for `nigaoe prepare` and `nigaoe train`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from nigaoe.core.adapters.variants import Variant, variant_named
from nigaoe.core.config import Config

Format = Literal["json", "jsonl", "csv", "folder", "imagefolder", "parquet", "webdataset"]


class DataConfig(Config):
    """Where the pictures are and how they are used."""

    source: str
    """What lists the pictures: a `.json`, `.jsonl`, `.csv` or `.parquet` file, a folder of pictures with `.txt`
    captions or with `metadata.jsonl`, or WebDataset tars (`shards/{000..099}.tar`); local, NFS or `s3://bucket/...`."""
    format: Format | None = None
    """Told from the source when absent."""
    image_root: str | None = None
    """Folder that file names are relative to; the source's own when absent."""
    image_column: str | None = None
    """Column of the picture to be learnt; the format's own when absent (`image_file`, `ID`, `file_name`, `image`)."""
    condition_column: str | None = None
    """Column of the picture that prompts, where it is another one: a face crop, a photo of the drawn person."""
    caption_columns: list[str] | None = None
    """Columns that hold captions, one of which is drawn each time; `caption*` and `text` when absent."""
    identity_column: str = "identity"
    """Column that says whose picture it is."""
    split: Path | None = None
    """What `nigaoe dataset split` wrote; its held-out people are never trained on, and validate."""
    quarantine: Path | None = None
    """What `nigaoe dataset check` wrote; the rows it lists are left out."""
    resolution_px: int | None = Field(None, ge=16)
    """Side of the training pictures, or of a square of their area with several aspect ratios; the base's own when
    absent."""
    aspect_ratios: int = Field(1, ge=1, le=64)
    """Buckets of aspect ratio; 1: every picture is cut to a square."""
    views: int = Field(1, ge=1, le=64)
    """Encoded copies of each picture, one of which is drawn each time: the first as it is, the others by `augment`."""
    augment: list[Literal["crop", "flip"]] = ["crop", "flip"]
    """What differs between views: a crop at another place, or left and right exchanged."""
    cached: bool = True
    """Encode once with `nigaoe prepare`. False: encode anew in every step, without a prepared folder."""
    prepared: Path
    """Folder for cached latents and embeddings."""
    shard_rows: int = Field(512, ge=1)
    """Rows per file: what is encoded at once, and the most that a crash loses."""
    reference: Literal["same", "other"] = "same"
    """Which picture prompts where no column says it: the target itself, or another one of the same identity where there
    is one. With `other` the adapter carries the person and leaves background and pose to the text."""


class AdapterConfig(Config):
    """What is trained."""

    variant: str = "base"
    """Architecture, by its own name or by that of a published file: `base`, `plus`, `plus-face`, `faceid`, ..."""
    num_tokens: int | None = Field(None, ge=1)
    """Image tokens per picture; as published when absent."""
    lora_rank: int = Field(128, ge=1)
    """Of the LoRA that FaceID variants bring; as published."""

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

    name: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw` is fused on a GPU; `adamw_8bit` keeps its moments in 8 bits and needs bitsandbytes and a GPU."""
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


class LossConfig(Config):
    """What is asked of a prediction, beyond the published mean squared error."""

    min_snr_gamma: float | None = Field(None, gt=0)
    """Weight timesteps by min(SNR, gamma) / SNR (arXiv 2303.09556; 5 is theirs); even weights when absent."""
    noise_offset: float = Field(0.0, ge=0, le=1)
    """Standard deviation of a shift that all positions of a latent channel share; 0.05 to 0.1 is usual."""


class DeepSpeedConfig(Config):
    """How DeepSpeed splits a run over its workers; docs/training.md says which to choose."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """0: nothing is split. 1: optimizer state. 2: gradients too. 3: weights too, the frozen base's among them."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in the CPU's memory: the optimizer state (stage 1 and up), and with `all` the weights (stage 3)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(
                f"offload {self.offload!r} needs zero_stage {needed} or more, this one is {self.zero_stage}"
            )
        return self


class ValidationConfig(Config):
    """What is looked at while a run goes on, on held-out people: a task beside the workers, which do not wait."""

    every: int = Field(1, ge=1)
    """In checkpoints."""
    loss_rows: int = Field(64, ge=4)
    """Held-out rows whose loss is measured, always with the same noise and at the same timesteps."""
    references: int = Field(4, ge=1, le=64)
    """Held-out pictures that are drawn from."""
    prompts: list[str] = ["a photo of a person"]
    """Each is drawn with every reference."""
    steps: int = Field(20, ge=1)
    guidance_scale: float = Field(5.0, ge=0)
    scale: float = Field(1.0, ge=0)
    seed: int = 0
    use_gpu: bool = False
    """Ask for a GPU of its own."""
    timeout_s: float = Field(3600, gt=0)


class ClusterConfig(Config):
    """What the job asks Ray for."""

    address: str | None = None
    """Address of a running cluster, or `auto`; a cluster on this machine when absent."""
    num_workers: int = Field(2, ge=1)
    min_workers: int | None = Field(None, ge=1)
    """Go on with as few where machines are lost, and grow again when they return; never fewer when absent."""
    use_gpu: bool = False
    cpus_per_worker: float = Field(1, gt=0)
    decoders: int = Field(1, ge=1)
    """Processes of `nigaoe prepare` that decode pictures for each one that encodes them."""
    max_failures: int = Field(3, ge=-1)
    """Restarts from the last checkpoint before giving up; -1: without end."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}")
        return self


TrackingMode = Literal["offline", "online", "disabled"]


class TrackingConfig(Config):
    """Weights & Biases. Offline unless asked, so nobody meets a login prompt."""

    mode: TrackingMode | None = None
    """What the environment's WANDB_MODE says when absent, and `offline` where that says nothing."""
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
    """Pictures per optimizer step, over all workers, however many there are."""
    micro_batch_size: int | None = Field(None, ge=1)
    """The most that a worker computes at once; the rest of its share is accumulated. Its whole share when absent."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen base's products; the adapter and its optimizer stay float32."""
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    drop: DropConfig = DropConfig()
    timestep_bias: TimestepBiasConfig = TimestepBiasConfig()
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Publish an exponential average of the weights instead of the last ones."""
    compile: bool = False
    """`torch.compile` the frozen UNet."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: half again the time, a fraction of the memory."""
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    """The last ones; with `validation` those of the lowest validation loss, and the last one."""
    validation: ValidationConfig | None = None
    """No validation when absent; needs `data.split`."""
    seed: int = 0
    publish_to: str | None = None
    """Registry that the server reads: a folder or `s3://bucket/...`; the finished adapter goes there under `name`."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _has_a_held_out_part(self) -> Self:
        if self.validation is not None and self.data.split is None:
            raise ValueError("validation needs held-out pictures; name in data.split what `nigaoe dataset split` wrote")
        return self

    @model_validator(mode="after")
    def _has_work_for_all(self) -> Self:
        workers = self.cluster.num_workers
        if self.batch_size < workers:
            raise ValueError(
                f"batch_size {self.batch_size} has no picture for some of {workers} workers; take {workers} or more"
            )
        return self

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
