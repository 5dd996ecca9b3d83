"""A sweep as it is written down, and the runs that it means: one for each combination of what is varied."""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from nigaoe.core.config import Config, parse_config, read_values, set_value
from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrainConfig
from nigaoe.train.places import with_absolute_paths
from nigaoe.train.samples.features import reading

SCALE = "scale"
"""The key of a grid that needs no training: how strongly adapters are used when they draw."""
RESERVED = ("name", "out", "data.prepared", "cluster", "tracking", "publish_to")
"""Keys that a sweep sets itself, or that are the same for all of its runs."""
_LONGEST = 40
"""Characters of a value in the name of a run."""


class SweepConfig(Config):
    """Runs that differ in a few keys, compared by what they draw of held-out people."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    out: Path
    """Folder for runs, prepared data and the report."""
    train: Path | dict[str, Any]
    """A training config, by its file or written here; it needs `validation` and `data.split`."""
    grid: dict[str, list[Any]] = Field(min_length=1)
    """Key of the training config (`base`, `data.resolution_px`, `optimizer.lr`) to the values that it takes; and
    `scale`, for which nothing is trained anew."""
    parallel: int = Field(1, ge=1)
    """Runs at the same time, as far as the cluster has room for them."""
    judge: str | None = None
    """Image encoder that says how alike pictures are to their references; the training config's own when absent."""

    @field_validator("grid")
    @classmethod
    def _is_a_grid(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key!r} takes no value; list some")
            if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
                raise ValueError(f"{key!r} takes one value twice; list it once")
            if any(key == name or key.startswith(f"{name}.") for name in RESERVED):
                raise ValueError(f"{key!r} cannot be varied: a sweep sets it itself, or has one for all of its runs")
        return grid


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, and the scales that its adapter is used at."""

    name: str
    values: dict[str, Any]
    """What it has of what is varied, without the scale."""
    config: TrainConfig
    scales: tuple[float, ...]


def expand(config: SweepConfig) -> list[Cell]:
    """All cells, with every path from the root; each is validated, so that mistakes show before anything runs.

    Raises:
        ConfigError: A cell is no training config, or has no validation.
    """
    values, where = _training_values(config)
    varied = {key: options for key, options in config.grid.items() if key != SCALE}
    names = {key: _short_names(options) for key, options in varied.items()}
    cells = []
    for combination in itertools.product(*(range(len(options)) for options in varied.values())):
        chosen = {key: varied[key][i] for key, i in zip(varied, combination, strict=True)}
        parts = [f"{key.rpartition('.')[2]}-{names[key][i]}" for key, i in zip(varied, combination, strict=True)]
        name = "_".join(parts) or "run"
        cells.append(_cell(config, name, chosen, values, where))
    return cells


def _training_values(config: SweepConfig) -> tuple[dict[str, Any], str]:
    if isinstance(config.train, Path):
        return read_values(config.train), str(config.train)
    return config.train, "train"


def _cell(sweep: SweepConfig, name: str, chosen: dict[str, Any], values: dict[str, Any], where: str) -> Cell:
    changed = copy.deepcopy(values)
    for key, value in chosen.items():
        set_value(changed, key, value)
    out = sweep.out.resolve()
    changed |= {"name": f"{sweep.name}.{name}", "out": out / "cells" / name, "publish_to": None}
    # For the time being: the folder depends on what all the other keys come to.
    set_value(changed, "data.prepared", out / "prepared")
    parsed = with_absolute_paths(parse_config(changed, TrainConfig, f"{where}, cell {name!r}"))
    if parsed.validation is None:
        raise ConfigError(
            f"{where} has no validation, by which a sweep compares; add `validation: {{}}` and name the file of "
            "`nigaoe dataset split` in data.split"
        )
    prepared = out / "prepared" / _preparation(parsed)
    parsed = parsed.model_copy(update={"data": parsed.data.model_copy(update={"prepared": prepared})})
    return Cell(name, chosen, parsed, _scales(sweep, parsed.validation.scale if parsed.validation else 1.0))


def _scales(sweep: SweepConfig, default: float) -> tuple[float, ...]:
    said = sweep.grid.get(SCALE, [default])
    for scale in said:
        if isinstance(scale, bool) or not isinstance(scale, int | float) or scale < 0:
            raise ConfigError(f"grid.scale holds {scale!r}; list numbers from 0 on, such as 0.5 and 1.0")
    return tuple(float(scale) for scale in said)


def _preparation(config: TrainConfig) -> str:
    """Name of a folder of prepared data, which all cells share that would prepare the same."""
    data = config.data.model_dump(mode="json", exclude={"prepared", "reference", "cached"})
    made_by = [config.base, config.image_encoder, config.face_encoder, reading(config.adapter.kind), data]
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:10]


def _short_names(values: Sequence[Any]) -> list[str]:
    """Values as parts of file names: the last part of a path, or all of it where that leaves two the same."""
    texts = [value if isinstance(value, str) else json.dumps(value, default=str) for value in values]
    for parts in (1, 2, 100):
        short = [_slug("/".join(text.rstrip("/").split("/")[-parts:])) for text in texts]
        if len(set(short)) == len(short):
            return short
    return [f"{name}-{number}" for number, name in enumerate(short, 1)]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:_LONGEST] or "none"
