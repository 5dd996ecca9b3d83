"""`nigaoe eval` as a job of a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nigaoe.core.config import load_config
from nigaoe.core.jobs import JobPlan
from nigaoe.core.places import everywhere, face_encoder_everywhere, hub_variables
from nigaoe.core.storage import absolute
from nigaoe.eval.config import EvalConfig, FolderProtocolConfig, MetricsConfig, ProtocolConfig

RESULTS = ("report.json", "report.html", "samples.csv", "grid.png")


def eval_job(path: Path, overrides: Sequence[str]) -> JobPlan:
    """An evaluation."""
    config = with_absolute_paths(load_config(path, EvalConfig, overrides))
    config = config.model_copy(update={"ray_address": "auto"})
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return JobPlan("eval", config.out.name, text, config.out, RESULTS, _variables(config))


def with_absolute_paths(config: EvalConfig) -> EvalConfig:
    """The config with every path from the root; addresses of buckets and names of models stay."""
    folders = {
        name: target.model_copy(update={"pictures": target.pictures.resolve()})
        for name, target in config.folders.items()
    }
    return config.model_copy(
        update={
            "out": config.out.resolve(),
            "protocol": _protocol(config.protocol),
            "adapters": {name: _adapter(where) for name, where in config.adapters.items()},
            "folders": folders,
            "metrics": _metrics(config.metrics),
            "cache": None if config.cache is None else config.cache.resolve(),
        }
    )


def _protocol(protocol: ProtocolConfig) -> ProtocolConfig:
    if not isinstance(protocol, FolderProtocolConfig):
        return protocol
    changes: dict[str, Any] = {
        "references": protocol.references.resolve(),
        "bases": {name: everywhere(base) for name, base in protocol.bases.items()},
        "image_encoder": None if protocol.image_encoder is None else everywhere(protocol.image_encoder),
        "clip": everywhere(protocol.clip),
    }
    return protocol.model_copy(update=changes)


def _metrics(metrics: MetricsConfig) -> MetricsConfig:
    changes = {
        "features": [_feature(name) for name in metrics.features],
        "dino": None if metrics.dino is None else everywhere(metrics.dino),
        "face_encoder": None if metrics.face_encoder is None else face_encoder_everywhere(metrics.face_encoder),
        "lpips": None if metrics.lpips is None else metrics.lpips.resolve(),
    }
    return metrics.model_copy(update=changes)


def _feature(name: str) -> str:
    kind, colon, where = name.partition(":")
    return f"{kind}:{everywhere(where)}" if colon else name


def _adapter(where: str) -> str:
    """An adapter is a path even where nothing is there yet: the job before this one may write it."""
    return where if where.startswith("toy/") else absolute(where)


def _variables(config: EvalConfig) -> tuple[str, ...]:
    """A key goes only where it is needed: whoever may list the cluster's jobs can read it."""
    keys = tuple(dict.fromkeys(server.api_key_env for server in config.servers.values()))
    # What is logged, and where to, is said by the environment alone.
    tracking = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY") if config.wandb_project else ()
    return (*keys, *tracking, *hub_variables(_models(config)))


def _models(config: EvalConfig) -> list[str]:
    protocol = config.protocol
    own = [*protocol.bases.values()] if isinstance(protocol, FolderProtocolConfig) else []
    features = [name.partition(":")[2] for name in config.metrics.features]
    return [*own, protocol.image_encoder or "", protocol.clip, *features, config.metrics.dino or ""]
