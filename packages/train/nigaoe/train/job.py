"""The training job as its driver sees it: start or continue a run by name, follow it, publish the adapter."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from nigaoe.core.adapters.files import load_adapter, read_adapter_file
from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.core.manifests import AdapterManifest, PreparedManifest, read_prepared, write_json
from nigaoe.train.cluster import connected
from nigaoe.train.config import TrainConfig
from nigaoe.train.features import PreparedFeatures, read_features, reading
from nigaoe.train.loop import train_loop
from nigaoe.train.progress import ProgressBar, ProgressBoard
from nigaoe.train.trainable import require_trainable


class TrainingFailed(NigaoeError):
    """The job gave up; what it had checkpointed is kept."""


def train(config: TrainConfig) -> Path:
    """Run or continue the run of this name; returns the path of the finished adapter.

    Raises:
        ConfigError: A run of this name exists with another config, or a base that cannot be trained on.
        TrainingFailed: The workers failed more often than allowed.
    """
    require_trainable(config.base)
    manifest = read_prepared(config.data.prepared)
    features = read_features(config.data.prepared, manifest.fingerprint)
    _require_same_data(config, manifest, features)
    config = _absolute(config)
    if config.init_from is not None:
        _require_start(config, config.init_from, features)
    _claim_run(config, manifest.fingerprint)
    with connected(config.cluster):
        board = ProgressBoard.remote()  # type: ignore[attr-defined]
        with ProgressBar(board, config.steps, config.name):
            _fit(config, board)
    adapter_path = config.out / "adapter.safetensors"
    write_json(_adapter_manifest(config, adapter_path, manifest.image_encoder_hash), config.out / "adapter.json")
    return adapter_path


def _require_same_data(config: TrainConfig, manifest: PreparedManifest, features: PreparedFeatures) -> None:
    """Refuse a prepared dataset that this config would not have made."""
    source = config.data.source
    pairs = {
        "base": (manifest.base, config.base),
        "image_encoder": (manifest.image_encoder, config.image_encoder),
        "face_encoder": (features.face_encoder, config.face_encoder),
        "resolution_px": (manifest.resolution_px, config.data.resolution_px or manifest.resolution_px),
    }
    if source.is_file():
        pairs["captions file"] = (manifest.captions_sha256[:12], hashlib.sha256(source.read_bytes()).hexdigest()[:12])
    wanted = reading(config.adapter.kind)
    if features.reading != wanted:
        raise ConfigError(
            f"the prepared dataset holds {features.reading!r}, adapter.variant {config.adapter.variant!r} reads "
            f"{wanted!r}; run `nigaoe prepare` with this config"
        )
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ConfigError(
                f"the prepared dataset was made with {what} {theirs!r}, the config says {ours!r}; "
                f"run `nigaoe prepare` with this config"
            )


def _require_start(config: TrainConfig, path: Path, features: PreparedFeatures) -> None:
    """Refuse an adapter to start from that is another one; here, where it is a sentence and no worker's stack trace."""
    candidates = read_adapter_file(path).candidates()
    if candidates and config.adapter.kind not in candidates:
        theirs = " or ".join(repr(variant.name) for variant in candidates)
        raise ConfigError(
            f"init_from {str(path)!r} is of variant {theirs}, the config says {config.adapter.variant!r}; "
            f"set adapter.variant to what it is"
        )
    for name, width in load_adapter(path, config.adapter.variant).widths.features.items():
        if features.widths[name] != width:
            raise ConfigError(
                f"init_from {str(path)!r} reads {name} of width {width}, the prepared dataset has "
                f"{features.widths[name]}; prepare it with the encoder that the adapter was trained with"
            )


def _fit(config: TrainConfig, board: Any) -> None:
    cluster = config.cluster
    resources = {"CPU": cluster.cpus_per_worker, **({"GPU": 1.0} if cluster.use_gpu else {})}
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "board": board,
            "threads": cluster.cpus_per_worker,
        },
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers, use_gpu=cluster.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=str(config.out / "checkpoints"),
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                controller_failure_limit=3,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps whatever the workers raised.
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise TrainingFailed(
            f"run {config.name!r} failed ({reason}); its checkpoints are in {str(config.out / 'checkpoints')!r}, "
            f"start it again with the same name to go on"
        ) from error


def _absolute(config: TrainConfig) -> TrainConfig:
    """Workers run in another directory, so every path must be absolute."""
    data = config.data.model_copy(
        update={"source": config.data.source.resolve(), "prepared": config.data.prepared.resolve()}
    )
    init_from = config.init_from.resolve() if config.init_from else None
    base = str(Path(config.base).resolve()) if Path(config.base).is_dir() else config.base
    return config.model_copy(update={"base": base, "out": config.out.resolve(), "data": data, "init_from": init_from})


def _claim_run(config: TrainConfig, dataset_fingerprint: str) -> None:
    """Write down what the run is; refuse to continue one that was something else."""
    ours = {
        **config.model_dump(mode="json", exclude={"cluster", "tracking"}),
        # Optimizer state is split by worker, so a run keeps their number.
        "num_workers": config.cluster.num_workers,
        "dataset": dataset_fingerprint,
    }
    path = config.out / "run.json"
    has_checkpoint = any((config.out / "checkpoints" / config.name).glob("checkpoint_*/"))
    if path.is_file() and has_checkpoint:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in ours.items() if theirs.get(key) != value]
        if changed:
            raise ConfigError(
                f"run {config.name!r} in {str(config.out)!r} was started with another config ({', '.join(changed)} "
                f"changed); choose another name and out, or delete that folder"
            )
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")


def _adapter_manifest(config: TrainConfig, path: Path, image_encoder_hash: str) -> AdapterManifest:
    adapter = load_adapter(path)
    return AdapterManifest(
        variant=adapter.variant.name,
        base=config.base,
        image_encoder=config.image_encoder,
        image_encoder_hash=image_encoder_hash,
        num_tokens=adapter.num_tokens,
        steps=config.steps,
        samples_seen=config.steps * config.batch_size * config.cluster.num_workers,
        parameters=sum(p.numel() for p in adapter.parameters()),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        config=config.model_dump(mode="json"),
    )
