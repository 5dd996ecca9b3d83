"""Paths of a config as every process understands them, whatever folder it runs in."""

from pathlib import Path

from nigaoe.core.places import everywhere, face_encoder_everywhere
from nigaoe.core.storage import absolute
from nigaoe.train.config import TrainConfig


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The config with every path from the root; addresses of buckets and names of models stay."""
    data = config.data
    files = {name: _resolved(getattr(data, name)) for name in ("prepared", "split", "quarantine")}
    sources = {name: _absolute(getattr(data, name)) for name in ("source", "image_root")}
    return config.model_copy(
        update={
            "base": everywhere(config.base),
            "image_encoder": everywhere(config.image_encoder),
            "face_encoder": None if config.face_encoder is None else face_encoder_everywhere(config.face_encoder),
            "out": config.out.resolve(),
            "data": data.model_copy(update={**files, **sources}),
            "init_from": _resolved(config.init_from),
            "publish_to": _absolute(config.publish_to),
        }
    )


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _absolute(uri: str | None) -> str | None:
    return None if uri is None else absolute(uri)
