"""The training job as its driver sees it: start or continue a run by name, follow it, hand over the adapter."""

import shutil
from pathlib import Path
from typing import Any

import ray
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nigaoe.core.adapters.fetching import MANIFEST
from nigaoe.core.adapters.files import load_adapter, read_adapter_file
from nigaoe.core.errors import ConfigError
from nigaoe.core.manifests import write_json
from nigaoe.core.registry import Registry
from nigaoe.train.cluster import connected
from nigaoe.train.config import TrainConfig
from nigaoe.train.places import with_absolute_paths
from nigaoe.train.preparing.requirements import require_prepared_for
from nigaoe.train.records.reading import source_fingerprint
from nigaoe.train.running import failures
from nigaoe.train.running.claims import claim, remove_unfinished_checkpoints
from nigaoe.train.running.loop import train_loop
from nigaoe.train.running.trainable import require_trainable
from nigaoe.train.samples.features import PreparedFeatures, read_features
from nigaoe.train.shipping.publish import describe_adapter
from nigaoe.train.shipping.trained_on import leave_record, pictures_of_run
from nigaoe.train.validating.task import ray_validation
from nigaoe.train.watching.gauges import StoredCheckpoints
from nigaoe.train.watching.page import write_run_page
from nigaoe.train.watching.page_keeper import PageKeeper
from nigaoe.train.watching.progress import ProgressBar, ProgressBoard
from nigaoe.train.watching.tracking import log_last_validations, with_tracking_mode


def train(config: TrainConfig) -> Path:
    """Run or continue the run of this name; returns the path of the finished adapter.

    Raises:
        ConfigError: A run of this name exists with another recipe, or a base that cannot be trained on.
        TrainingFailed: The workers failed more often than allowed, or in a way that would come again.
    """
    require_trainable(config.base)
    manifest = require_prepared_for(config) if config.data.cached else None
    config = with_tracking_mode(with_absolute_paths(config))
    if config.init_from is not None and manifest is not None:
        _require_start(config, config.init_from, read_features(config.data.prepared, manifest.fingerprint))
    # Before it runs: by its end, the prepared data may be gone.
    trained_on = pictures_of_run(config, manifest)
    dataset = source_fingerprint(config.data) if manifest is None else manifest.fingerprint
    claim(config, dataset)
    failures.forget(config.out)
    remove_unfinished_checkpoints(config)
    with connected(config.cluster, extra_cpus=0 if config.validation is None else 1):
        # Beside the driver: of the other machines any may be taken away.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ProgressBoard.options(scheduling_strategy=here).remote(config.name, config.steps)  # type: ignore[attr-defined]
        with PageKeeper(config.out), ProgressBar(board, config.steps, config.name):
            checkpoint = _fit(config, board)
    adapter = _hand_over(checkpoint, config.out)
    log_last_validations(config)
    write_run_page(config.out)
    leave_record(trained_on, config.out)
    described = describe_adapter(config, adapter, dataset, manifest, trained_on)
    write_json(described, config.out / MANIFEST)
    if config.publish_to is not None:
        Registry(config.publish_to).publish(adapter, described)
    return adapter


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


def _fit(config: TrainConfig, board: Any) -> Checkpoint:
    """The last checkpoint of the finished run."""
    try:
        result = _trainer(config, board).fit()
    except Exception as error:  # Ray wraps whatever the workers raised.
        raise failures.TrainingFailed(
            f"run {config.name!r} failed: {failures.noted(config.out) or failures.reason(error)}; what it had "
            f"checkpointed is in {str(config.out / 'checkpoints')!r}, start it again with the same name to go on"
        ) from error
    sentence = failures.noted(config.out)
    if sentence is not None:
        raise failures.TrainingFailed(sentence)
    if result.checkpoint is None:
        raise failures.TrainingFailed(f"run {config.name!r} ended without a checkpoint; start it again")
    checkpoint: Checkpoint = result.checkpoint
    return checkpoint


def _trainer(config: TrainConfig, board: Any) -> TorchTrainer:
    cluster, validation = config.cluster, config.validation
    resources = {"CPU": cluster.cpus_per_worker, **({"GPU": 1.0} if cluster.use_gpu else {})}
    most, fewest = cluster.num_workers, cluster.min_workers
    by_validation: Any = {"checkpoint_score_attribute": "validation_loss", "checkpoint_score_order": "min"}
    # Ray's annotation forgets that a pair is a range.
    workers: Any = most if fewest is None else (fewest, most)
    # Nor does it know its own kind of callback.
    callbacks: Any = [StoredCheckpoints(board)]
    told = config.model_dump(mode="json")
    return TorchTrainer(
        train_loop,
        train_loop_config={"config": told, "board": board, "threads": cluster.cpus_per_worker},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=str(config.out / "checkpoints"),
            callbacks=callbacks,
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                # An elastic run waits for machines, and now and then for one that Ray has not yet missed.
                controller_failure_limit=3 if fewest is None else -1,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.keep_checkpoints, **({} if validation is None else by_validation)
            ),
        ),
        validation_config=ray_validation(config),
    )


def _hand_over(checkpoint: Checkpoint, out: Path) -> Path:
    """Copy the adapter of a checkpoint, whole or not at all."""
    path = out / "adapter.safetensors"
    with checkpoint.as_directory() as folder:
        shutil.copyfile(Path(folder) / path.name, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return path
