"""`nigaoe train` and `nigaoe prepare` as jobs of a cluster."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from nigaoe.core.config import load_config
from nigaoe.core.jobs import JobPlan
from nigaoe.core.places import hub_variables
from nigaoe.train.config import TrainConfig
from nigaoe.train.places import with_absolute_paths
from nigaoe.train.watching.tracking import with_tracking_mode

TRAIN_RESULTS = ("adapter.json", "report.html", "metrics.jsonl", "adapter.safetensors")
PREPARE_RESULTS = ("manifest.json",)


def train_job(path: Path, overrides: Sequence[str]) -> JobPlan:
    """A training run."""
    config = _for_cluster(path, overrides)
    return JobPlan("train", config.name, _yaml(config), config.out, TRAIN_RESULTS, _variables(config))


def prepare_job(path: Path, overrides: Sequence[str]) -> JobPlan:
    """The preparation of its data."""
    config = _for_cluster(path, overrides)
    models = hub_variables([config.base, config.image_encoder])
    return JobPlan("prepare", config.name, _yaml(config), config.data.prepared, PREPARE_RESULTS, models)


def _for_cluster(path: Path, overrides: Sequence[str]) -> TrainConfig:
    """The config as it is meant over there: paths from the root, and the cluster that the job is on."""
    config = with_tracking_mode(with_absolute_paths(load_config(path, TrainConfig, overrides)))
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": "auto"})})


def _yaml(config: TrainConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _variables(config: TrainConfig) -> tuple[str, ...]:
    """A key goes only where it is needed: whoever may list the cluster's jobs can read it."""
    tracking = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY") if config.tracking.mode == "online" else ()
    return (*tracking, *hub_variables([config.base, config.image_encoder]))
