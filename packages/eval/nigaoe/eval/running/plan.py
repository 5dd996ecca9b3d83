"""The plan: which inputs there really are, what they hash to, and which shards follow from them."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nigaoe.core.bases
from nigaoe.core.adapters.files import read_adapter_file
from nigaoe.core.errors import ConfigError
from nigaoe.core.models import locate
from nigaoe.core.transfers import sha256_of
from nigaoe.eval.config import EvalConfig, ToyProtocolConfig
from nigaoe.eval.making.folder_pictures import FolderPictures
from nigaoe.eval.protocols.make import make_protocol
from nigaoe.eval.protocols.protocol import REAL, CellPlan, EvalProtocol, of_other_words, strangers
from nigaoe.eval.running.shards import ShardTask, fingerprint_of, split_cell
from nigaoe.eval.scoring.faces import face_fingerprint
from nigaoe.eval.scoring.fingerprints import extractor_fingerprint
from nigaoe.eval.scoring.weights import file_fingerprint, model_fingerprint

_LIBRARIES = ("nigaoe", "torch", "diffusers", "transformers", "torchmetrics", "numpy")
_ROOMS = ("making", "metrics", "protocols", "scoring")
"""Code of this package that figures depend on, beside `_FILES` of this room."""
_FILES = ("panel.py", "worker.py", "gallery.py", "shards.py")


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first picture is made."""

    config: EvalConfig
    protocol: EvalProtocol
    adapters: dict[str, Path]
    sha256: dict[str, str]
    """Of the adapters' files."""
    tasks: list[ShardTask]
    """Real pictures first, then ordered by base, so that a worker seldom changes it."""
    folders: dict[str, FolderPictures]
    provenance: dict[str, str]
    fingerprint: str
    """Of what the checks depend on: networks, code, and the first references."""

    @property
    def cells(self) -> list[CellPlan]:
        """In the order of the report; real pictures too."""
        return self.protocol.cells()

    def tasks_of(self, cell: CellPlan) -> list[ShardTask]:
        """A cell's shards in order."""
        return [task for task in self.tasks if task.cell.name == cell.name]

    def cell(self, name: str) -> CellPlan:
        """A cell by its name."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def cache(self) -> Path:
        """Where features of real pictures are kept."""
        home = Path(os.environ.get("NIGAOE_CACHE") or "~/.cache/nigaoe").expanduser()
        return self.config.cache or home / "evaluation"


def make_plan(config: EvalConfig) -> Plan:
    """Check every input of an evaluation and split it into shards.

    Raises:
        NigaoeError: A file, a folder, a model or a cell that the config names does not exist.
    """
    adapters = {name: _adapter_path(where) for name, where in config.adapters.items()}
    protocol = make_protocol(config)
    cells = protocol.cells()
    _require_cells(config, cells)
    folders = {name: FolderPictures.open(target.pictures) for name, target in config.folders.items()}
    hashes = _Hashes.of(config, adapters, cells)
    tasks = []
    for cell in sorted(cells, key=lambda cell: (cell.source not in REAL, cell.base or "")):
        setting = hashes.setting(config, cell)
        # All samples at once: each is a stranger to others.
        samples = _identified(protocol, cell, folders)
        for task in split_cell(cell, config.shard_size, config.metrics.keep_features, config.thumbnails):
            told = [samples[place] for place in _places(protocol, task)]
            tasks.append(replace(task, fingerprint=fingerprint_of(task, told, setting)))
    references = next(task for task in tasks if task.cell.source == "references")
    return Plan(
        config=config,
        protocol=protocol,
        adapters=adapters,
        sha256={name: sha256_of(str(path)) for name, path in adapters.items()},
        tasks=tasks,
        folders=folders,
        provenance=hashes.provenance(config, adapters),
        fingerprint=hashlib.sha256(f"{references.fingerprint} {hashes.networks}".encode()).hexdigest()[:32],
    )


def _identified(protocol: EvalProtocol, cell: CellPlan, folders: dict[str, FolderPictures]) -> list[str]:
    """What each sample is called and made from."""
    told = [
        f"{protocol.sample_id(cell, place)} {protocol.group(cell, place)} {protocol.identify(cell, place)}"
        for place in range(cell.n)
    ]
    if cell.source != "folder" or cell.target is None:
        return told
    folder = folders[cell.target]
    ids = [protocol.sample_id(cell, place) for place in range(cell.n)]
    return [f"{what} {folder.fingerprint(name)}" for what, name in zip(told, ids, strict=True)]


def _places(protocol: EvalProtocol, task: ShardTask) -> list[int]:
    """Samples that a shard's figures depend on, those of wrong pairs after its own."""
    own = list(range(task.start, task.stop))
    if task.cell.source in REAL:
        return own
    others = {place for i in own for place in strangers(protocol, task.cell, i)}
    others |= {place for i in own for place in of_other_words(protocol, task.cell, i)}
    return [*own, *sorted(others - set(own))]


@dataclass(frozen=True)
class _Hashes:
    bases: dict[str, str]
    adapters: dict[str, str]
    image_encoder: str | None
    networks: dict[str, str]
    """Every network of the panel by what the config calls it."""
    code: str

    @classmethod
    def of(cls, config: EvalConfig, adapters: dict[str, Path], cells: Sequence[CellPlan]) -> "_Hashes":
        protocol = config.protocol
        return cls(
            bases={name: model_fingerprint(name) for name in sorted({cell.base for cell in cells if cell.base})},
            adapters={name: file_fingerprint(path) for name, path in adapters.items()},
            image_encoder=model_fingerprint(protocol.image_encoder or "", "image encoder") if adapters else None,
            networks=_networks(config),
            code=_code_fingerprint(),
        )

    def setting(self, config: EvalConfig, cell: CellPlan) -> dict[str, Any]:
        """What a cell's pictures and scores depend on, and nothing else: another adapter leaves the ceilings valid."""
        said: dict[str, Any] = {"networks": self.networks, "code": self.code, "torch": version("torch")}
        if cell.base is not None:
            said |= {"base": self.bases[cell.base], "precision": config.sampling.precision}
        if cell.source == "generation":
            said["sampling"] = config.sampling.model_dump(exclude={"adapter_scale", "scales"})
        if cell.source in ("generation", "server"):
            said["seed"] = config.seed
        if cell.source == "server" and cell.target is not None:
            said["server"] = config.servers[cell.target].model_dump(include={"url", "fields"})
        if cell.source not in REAL:
            said["keep_images"] = config.keep_images
        if cell.adapter is not None:
            said |= {"adapter": self.adapters[cell.adapter], "image_encoder": self.image_encoder}
        return said

    def provenance(self, config: EvalConfig, adapters: dict[str, Path]) -> dict[str, str]:
        """Names and hashes for the report."""
        said = {f"base {name}": value for name, value in self.bases.items()}
        for name, path in adapters.items():
            said[f"adapter {name}"] = f"{config.adapters[name]} {self.adapters[name]}"
            said |= {f"adapter {name}: {key}": value for key, value in _metadata(path).items()}
        said |= {f"folder {name}": str(target.pictures) for name, target in config.folders.items()}
        said |= {f"server {name}": f"{target.url} {target.fields}" for name, target in config.servers.items()}
        if self.image_encoder is not None:
            said["image encoder"] = f"{config.protocol.image_encoder} {self.image_encoder}"
        said |= {f"network {name}": value for name, value in self.networks.items()}
        said["config"] = _config_fingerprint(config)
        said["code of the figures"] = self.code
        return said | {library: version(library) for library in _LIBRARIES}


def _networks(config: EvalConfig) -> dict[str, str]:
    asked, protocol = config.metrics, config.protocol
    said = {f"scoring CLIP {protocol.clip}": model_fingerprint(protocol.clip, "scoring CLIP")}
    if isinstance(protocol, ToyProtocolConfig):
        said["judge toy/judge"] = model_fingerprint("toy/judge", "judge")
    if asked.dino:
        said[f"vision transformer {asked.dino}"] = model_fingerprint(asked.dino, "vision transformer")
    said |= {f"features {name}": extractor_fingerprint(name) for name in asked.features}
    if asked.face_encoder:
        said[f"face encoder {asked.face_encoder}"] = face_fingerprint(asked.face_encoder)
    if asked.lpips:
        said[f"LPIPS {asked.lpips}"] = file_fingerprint(asked.lpips) if asked.lpips.is_file() else "missing"
    return said


def _config_fingerprint(config: EvalConfig) -> str:
    # How many hands did it, and where, is no part of what was asked.
    hands = {"out", "cache", "workers", "gpus_per_worker", "ray_address", "start_timeout_s", "wandb_project"}
    asked = config.model_dump(mode="json", exclude=hands)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _code_fingerprint() -> str:
    core, here = Path(nigaoe.core.bases.__file__).parent, Path(__file__).parent
    paths = [p for p in core.rglob("*.py") if "build" not in p.parts and p.name not in ("cli.py", "reports.py")]
    paths += [path for room in _ROOMS for path in (here.parent / room).glob("*.py")]
    paths += [here / name for name in _FILES]
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


def _require_cells(config: EvalConfig, cells: Sequence[CellPlan]) -> None:
    reported = [cell.name for cell in cells]
    for threshold in config.thresholds:
        if threshold.cell not in reported:
            raise ConfigError(
                f"threshold on cell {threshold.cell!r}, which this evaluation lacks; "
                f"its cells are: {', '.join(reported)}"
            )
