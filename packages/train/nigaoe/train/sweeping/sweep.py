"""A sweep on Ray: prepares what its cells share, trains each cell as a run of its own, draws at every scale, reports.

What is finished stays: a sweep that was stopped, or whose grid has grown, goes on with what is missing.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.exceptions import RayError, RayTaskError

from nigaoe.core.atomic import write_whole
from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.core.manifests import read_adapter_manifest
from nigaoe.train.cluster import connected
from nigaoe.train.config import ClusterConfig, TrainConfig
from nigaoe.train.sweeping.cells import Cell, SweepConfig, expand
from nigaoe.train.sweeping.page import SweepReport, SweepRow, write_sweep_page
from nigaoe.train.watching.history import ValidationResult, read_history, read_validations

Say = Callable[[str], object]


class CellFailed(NigaoeError):
    """One of the runs; the others go on."""


def sweep(config: SweepConfig, say: Say) -> SweepReport:
    """Run all that is missing, and write `sweep.json`, `grid.png` and `report.html`; `say` is told how it goes on.

    Raises:
        ConfigError: A cell is no training config, or no cluster answers.
    """
    cells = expand(config)
    judge = config.judge or cells[0].config.image_encoder
    missing = [cell for cell in cells if not all(is_measured(cell, scale, judge) for scale in cell.scales)]
    done = len(cells) - len(missing)
    say(f"{len(cells)} runs at {len(cells[0].scales)} scales" + (f", {done} finished before" if done else ""))
    failures: dict[str, str] = {}
    if missing:
        with connected(_cluster_for(config, cells[0].config.cluster)):
            failures = _Runner(say, judge).run(missing, _at_once(config.parallel, cells[0].config, say))
    report = SweepReport(
        name=config.name,
        judge=judge,
        grid=config.grid,
        prompts=cells[0].config.validation.prompts if cells[0].config.validation else [],
        rows=_rows(config.out.resolve(), cells, failures, judge),
    )
    write_sweep_page(config.out.resolve(), report)
    return report


class _Runner:
    """Runs cells, some at a time; the driver of each is a process of its own, with a log beside its run."""

    def __init__(self, say: Say, judge: str) -> None:
        self._address = ray.get_runtime_context().gcs_address
        self._judge = judge
        self._say, self._talking = say, threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._locks: dict[Path, threading.Lock] = {}
        self._prepared: set[Path] = set()
        self._is_stopped = False

    def run(self, cells: Sequence[Cell], at_once: int) -> dict[str, str]:
        """Run them all; returns why some failed, by name."""
        self._locks = {cell.config.data.prepared: threading.Lock() for cell in cells}
        with ThreadPoolExecutor(at_once) as pool, self._ending():
            reasons = list(pool.map(self._attempt, cells))
        return {cell.name: reason for cell, reason in zip(cells, reasons, strict=True) if reason is not None}

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Whoever stops the sweep stops its runs, which go on from their checkpoints another time."""
        try:
            yield
        except BaseException:
            self._is_stopped = True
            for process in list(self._processes):
                process.terminate()
            raise

    def _attempt(self, cell: Cell) -> str | None:
        if self._is_stopped:
            return "the sweep was stopped before it began"
        try:
            self._prepare(cell)
            self._train(cell)
            for scale in cell.scales:
                self._draw(cell, scale)
        except NigaoeError as error:
            self._tell(cell, f"failed: {error}")
            return str(error)
        self._tell(cell, "finished")
        return None

    def _prepare(self, cell: Cell) -> None:
        folder = cell.config.data.prepared
        if not cell.config.data.cached:
            return
        with self._locks[folder]:
            if folder not in self._prepared:
                self._tell(cell, f"preparing {cell.config.data.source}")
                self._command("prepare", cell, folder.with_suffix(".log"))
                self._prepared.add(folder)

    def _train(self, cell: Cell) -> None:
        if not is_trained(cell):
            self._tell(cell, f"training {cell.config.steps:,} steps")
            self._command("train", cell, cell.config.out / "train.log")

    def _draw(self, cell: Cell, scale: float) -> None:
        if is_measured(cell, scale, self._judge):
            return
        self._tell(cell, f"drawing at scale {scale:g}")
        config, cluster = cell.config, cell.config.cluster
        is_on_gpu = config.validation is not None and config.validation.use_gpu
        task = _measure.options(num_cpus=cluster.cpus_per_worker, num_gpus=1 if is_on_gpu else 0).remote(
            config.model_dump(mode="json"), scale, self._judge
        )
        try:
            ray.get(task)
        except RayTaskError as error:
            raise CellFailed(f"at scale {scale:g}: {_first_line(error.cause)}") from None
        except RayError as error:
            raise CellFailed(f"at scale {scale:g} its process died ({_first_line(error)})") from None
        note = scale_folder(cell.config, scale) / "measured.json"
        write_whole(note, json.dumps(_measurement(cell, scale, self._judge), indent=2).encode())

    def _command(self, verb: str, cell: Cell, log: Path) -> None:
        """Run a command of ours with a cell's config, on this sweep's cluster."""
        cluster = cell.config.cluster.model_copy(update={"address": self._address})
        config = cell.config.model_copy(update={"cluster": cluster})
        path = cell.config.out / "train.yaml"
        write_whole(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "nigaoe.core.cli", verb, str(path)], stdout=output, stderr=subprocess.STDOUT
            )
            self._processes.add(process)
            if self._is_stopped:
                process.terminate()
            code = process.wait()
            self._processes.discard(process)
        if code:
            raise CellFailed(f"{verb} ended with {code}: {_last_sentence(log)} (all of it is in {str(log)!r})")

    def _tell(self, cell: Cell, what: str) -> None:
        with self._talking:
            self._say(f"  {cell.name}: {what}")


@ray.remote(max_retries=0)
def _measure(config_json: dict[str, Any], scale: float, judge: str) -> None:
    # Here, so that the driver need not load torch's world.
    import torch

    from nigaoe.train.sweeping.drawing import draw_at_scale

    config = TrainConfig.model_validate(config_json)
    assert config.validation is not None
    device = torch.device("cuda" if config.validation.use_gpu else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    draw_at_scale(config, scale, scale_folder(config, scale), judge, device)


def scale_folder(config: TrainConfig, scale: float) -> Path:
    """Where a run keeps what was drawn at a scale."""
    return config.out / "scales" / f"{scale:g}"


def is_trained(cell: Cell) -> bool:
    """Whether a finished run of just this recipe lies in the cell's folder."""
    path = cell.config.out / "adapter.json"
    if not path.is_file():
        return False
    training, ours = read_adapter_manifest(path).training, cell.config.model_dump(mode="json")
    theirs = {} if training is None else training.recipe
    return all(theirs.get(key) == value for key, value in ours.items() if key not in ("cluster", "tracking"))


def is_measured(cell: Cell, scale: float, judge: str) -> bool:
    """Whether pictures of the finished adapter at this scale are there, drawn and judged as the config says."""
    note = scale_folder(cell.config, scale) / "measured.json"
    if not (is_trained(cell) and note.is_file()):
        return False
    return bool(json.loads(note.read_text(encoding="utf-8")) == _measurement(cell, scale, judge))


def _measurement(cell: Cell, scale: float, judge: str) -> dict[str, Any]:
    """All that pictures and figures at a scale depend on."""
    assert cell.config.validation is not None
    validation = cell.config.validation.model_dump(mode="json", exclude={"every", "use_gpu", "timeout_s", "scale"})
    adapter = read_adapter_manifest(cell.config.out / "adapter.json").sha256
    return {"adapter": adapter, "scale": scale, "judge": judge, "validation": validation}


def _rows(out: Path, cells: Sequence[Cell], failures: dict[str, str], judge: str) -> list[SweepRow]:
    rows = []
    for cell in cells:
        history = read_history(cell.config.out)
        rates = sorted(float(line["images_per_s"]) for line in history.lines if line.get("images_per_s"))
        for scale in cell.scales:
            folder = scale_folder(cell.config, scale)
            result = _last_result(folder) if is_measured(cell, scale, judge) else None
            rows.append(
                SweepRow(
                    cell=cell.name,
                    values=cell.values,
                    scale=scale,
                    steps=history.step,
                    images_per_s=rates[len(rates) // 2] if rates else None,
                    seconds=history.seconds,
                    metrics={} if result is None else result.metrics,
                    folder=folder.relative_to(out).as_posix(),
                    failure=failures.get(cell.name) if result is None else None,
                )
            )
    return rows


def _last_result(folder: Path) -> ValidationResult | None:
    return next((result for result in reversed(read_validations(folder)) if result.failure is None), None)


def _cluster_for(config: SweepConfig, cell: ClusterConfig) -> ClusterConfig:
    """A cluster on this machine has room for all that a sweep does at once; others are as large as they are."""
    # Preparing takes as many encoders as there are workers, and decoders for each; drawing takes less.
    workers = config.parallel * cell.num_workers * (1 + cell.decoders)
    return cell.model_copy(update={"num_workers": workers})


def _at_once(parallel: int, cell: TrainConfig, say: Say) -> int:
    """Runs that the cluster has room for; more would only wait, and Ray gives those up that wait too long."""
    cluster, there = cell.cluster, ray.cluster_resources()  # type: ignore[no-untyped-call]
    needs = {"CPU": cluster.num_workers * cluster.cpus_per_worker, "GPU": float(cluster.num_workers * cluster.use_gpu)}
    for resource, need in needs.items():
        if need > there.get(resource, 0.0):
            raise ConfigError(
                f"a run takes {need:g} {resource}s and the cluster has {there.get(resource, 0.0):g}; lower "
                "cluster.num_workers, or give the address of a larger one"
            )
    room = min(int(there[resource] // need) for resource, need in needs.items() if need)
    if room < parallel:
        say(f"{room} at once, for which the cluster has room")
    return min(parallel, room)


def _last_sentence(log: Path) -> str:
    """What a command of ours said at its end."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("nigaoe: ") for line in lines if line.startswith("nigaoe: ")]
    return (own or lines or ["it said nothing"])[-1]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
