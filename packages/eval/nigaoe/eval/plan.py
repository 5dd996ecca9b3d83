"""The plan: which inputs there really are, what they hash to, and which shards follow from them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nigaoe.core.bases
from nigaoe.core.adapters.files import read_adapter_file
from nigaoe.core.errors import ConfigError
from nigaoe.core.models import locate
from nigaoe.eval.config import EvalConfig, ToyProtocolConfig
from nigaoe.eval.protocols.make import make_protocol
from nigaoe.eval.protocols.protocol import CellPlan, EvalProtocol
from nigaoe.eval.scoring.weights import file_fingerprint, model_fingerprint
from nigaoe.eval.shards import ShardTask, fingerprint_of, split_cell

_LIBRARIES = ("nigaoe", "torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first picture is made."""

    config: EvalConfig
    protocol: EvalProtocol
    adapters: dict[str, Path]
    tasks: list[ShardTask]
    """Ordered by base, so that a worker seldom changes it."""
    provenance: dict[str, str]

    @property
    def cells(self) -> list[CellPlan]:
        """In the order of the report; yardsticks too."""
        return self.protocol.cells()

    def tasks_of(self, cell: CellPlan) -> list[ShardTask]:
        """A cell's shards in order."""
        return [task for task in self.tasks if task.cell.name == cell.name]


def make_plan(config: EvalConfig) -> Plan:
    """Check every input of an evaluation and split it into shards.

    Raises:
        NigaoeError: A file, a folder, a model or a cell that the config names does not exist.
    """
    adapters = {name: _adapter_path(where) for name, where in config.adapters.items()}
    protocol = make_protocol(config)
    cells = protocol.cells()
    _require_thresholds(config, protocol, cells)
    hashes = _Hashes.of(config, adapters, cells)
    grid_rows = protocol.grid_rows(config.pictures)
    tasks = []
    for cell in sorted(cells, key=lambda cell: cell.base or ""):
        setting = hashes.setting(config, cell)
        for task in split_cell(cell, config.shard_size, grid_rows):
            rows = [*range(task.start, task.stop), task.shuffled[-1]]
            samples = [protocol.identify(cell, row) for row in rows]
            tasks.append(replace(task, fingerprint=fingerprint_of(task, samples, setting)))
    return Plan(config, protocol, adapters, tasks, hashes.provenance(config, adapters))


@dataclass(frozen=True)
class _Hashes:
    bases: dict[str, str]
    adapters: dict[str, str]
    image_encoder: str | None
    clip: str
    judge: str | None
    code: str

    @classmethod
    def of(cls, config: EvalConfig, adapters: dict[str, Path], cells: Sequence[CellPlan]) -> "_Hashes":
        protocol = config.protocol
        return cls(
            bases={name: model_fingerprint(name) for name in sorted({cell.base for cell in cells if cell.base})},
            adapters={name: file_fingerprint(path) for name, path in adapters.items()},
            image_encoder=model_fingerprint(protocol.image_encoder, "image encoder") if adapters else None,
            clip=model_fingerprint(protocol.clip, "scoring CLIP"),
            judge=model_fingerprint("toy/judge", "judge") if isinstance(protocol, ToyProtocolConfig) else None,
            code=_code_fingerprint(),
        )

    def setting(self, config: EvalConfig, cell: CellPlan) -> dict[str, Any]:
        """What a cell's pictures and scores depend on, and nothing else: another adapter leaves the ceilings valid."""
        said: dict[str, Any] = {"clip": self.clip, "judge": self.judge, "code": self.code, "torch": version("torch")}
        if cell.base is not None:
            said |= {"base": self.bases[cell.base], "precision": config.sampling.precision}
        if cell.source == "generation":
            said |= {"sampling": config.sampling.model_dump(), "seed": config.seed}
        if cell.adapter is not None:
            said |= {"adapter": self.adapters[cell.adapter], "image_encoder": self.image_encoder}
        return said

    def provenance(self, config: EvalConfig, adapters: dict[str, Path]) -> dict[str, str]:
        """Names and hashes for the report."""
        said = {f"base {name}": value for name, value in self.bases.items()}
        for name, path in adapters.items():
            said[f"adapter {name}"] = f"{config.adapters[name]} {self.adapters[name]}"
            said |= {f"adapter {name}: {key}": value for key, value in _metadata(path).items()}
        if self.image_encoder is not None:
            said["image encoder"] = f"{config.protocol.image_encoder} {self.image_encoder}"
        said["scoring CLIP"] = f"{config.protocol.clip} {self.clip}"
        if self.judge is not None:
            said["judge"] = f"toy/judge {self.judge}"
        said["config"] = _config_fingerprint(config)
        return said | {library: version(library) for library in _LIBRARIES}


def _config_fingerprint(config: EvalConfig) -> str:
    # How many hands did it, and where, is no part of what was asked.
    hands = {"out", "workers", "gpus_per_worker", "ray_address", "start_timeout_s"}
    asked = config.model_dump(mode="json", exclude=hands)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _code_fingerprint() -> str:
    core, here = Path(nigaoe.core.bases.__file__).parent, Path(__file__).parent
    paths = [p for p in core.rglob("*.py") if "build" not in p.parts and p.name not in ("cli.py", "reports.py")]
    paths += [*(here / "scoring").glob("*.py"), *(here / "protocols").glob("*.py"), here / "worker.py"]
    lines = sorted(f"{path.parent.name}/{path.name} {file_fingerprint(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _adapter_path(where: str) -> Path:
    path = Path(locate(where, "adapter")) if where.startswith("toy/") else Path(where)
    path = (path / "adapter.safetensors" if path.suffix not in (".safetensors", ".bin") else path).resolve()
    read_adapter_file(path).variant()
    return path


def _metadata(path: Path) -> dict[str, str]:
    metadata = read_adapter_file(path).metadata
    return {key: value for key, value in sorted(metadata.items()) if key != "format"}


def _require_thresholds(config: EvalConfig, protocol: EvalProtocol, cells: Sequence[CellPlan]) -> None:
    reported = {cell.name: cell for cell in cells if cell.source != "yardstick"}
    for threshold in config.thresholds:
        if threshold.cell not in reported:
            known = ", ".join(reported)
            raise ConfigError(
                f"threshold on cell {threshold.cell!r}, which this evaluation lacks; its cells are: {known}"
            )
        metrics = protocol.metrics(reported[threshold.cell])
        if threshold.metric not in metrics:
            raise ConfigError(
                f"threshold on metric {threshold.metric!r}, which cell {threshold.cell!r} lacks; "
                f"it has: {', '.join(metrics)}"
            )
