"""A finished evaluation at Weights & Biases: figures with intervals, pictures side by side, its page."""

import hashlib
import io
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nigaoe.core.errors import ConfigError
from nigaoe.core.reports import Report
from nigaoe.eval.running.gallery import Gallery
from nigaoe.eval.running.tables import SampleTable

log = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled")
PAGE = "report.html"

_Rows = list[list[Any]]


def log_to_wandb(
    project: str, out: Path, report: Report, tables: Mapping[str, SampleTable], gallery: Gallery, rows: Sequence[str]
) -> Path | None:
    """Log an evaluation as one run; the same evaluation is the same run. Returns where its files are, if anywhere.

    It is offline unless WANDB_MODE says otherwise. Pictures of tables and the page then wait in the folder for data of
    Weights & Biases, `WANDB_DATA_DIR`; `wandb sync` must find them there.

    Args:
        project: Of Weights & Biases.
        out: Folder of the evaluation, with `report.html`; the run's files go to `wandb/` there.
        report: What was found.
        tables: Figures of the samples, by cell.
        gallery: Small pictures.
        rows: Samples that are shown, with their pictures and figures.

    Raises:
        ConfigError: WANDB_MODE is none of its modes.
    """
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in MODES:
        raise ConfigError(f"WANDB_MODE is {mode!r}; set it to one of {', '.join(MODES)}")
    if mode == "disabled":
        return None
    import wandb

    run = _started(project, out, report, mode)
    try:
        logged = {
            "figures": _table(_FIGURES, _figures(report)),
            "comparisons": _table(_COMPARISONS, _comparisons(report)),
            "checks": _table(["check", "passed", "detail"], [[c.name, c.passed, c.detail] for c in report.checks]),
            "pictures": _table(["sample", "reference", *gallery.pictures], list(_pictures(gallery, rows))),
            "samples": _table(["cell", "sample", "group", "failed", *_columns(tables)], list(_samples(tables, rows))),
        }
        run.log({name: table for name, table in logged.items() if table is not None})
        run.summary.update(_summary(report))
        if (out / PAGE).is_file():
            page = wandb.Artifact(f"report-{run.id}", type="report", description=report.title)
            page.add_file(str(out / PAGE))
            run.log_artifact(page)
        return Path(run.dir)
    finally:
        run.finish()


def _started(project: str, out: Path, report: Report, mode: str) -> Any:
    import wandb

    def start(mode: str) -> Any:
        return wandb.init(
            project=project,
            name=report.title,
            id=hashlib.sha256(report.model_dump_json().encode()).hexdigest()[:16],
            resume="allow",
            job_type="evaluation",
            mode=mode,  # type: ignore[arg-type]
            dir=str(out),
            config={"provenance": report.provenance, "adapters": report.adapters, "notes": report.notes},
            settings=wandb.Settings(silent=True, console="off"),
        )

    if mode == "offline":
        return start(mode)
    try:
        return start(mode)
    except wandb.errors.Error as error:
        # What took hours to compute is no worse for it.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning(
            f"Weights & Biases cannot be reached ({reason}); `wandb sync` sends what is kept in {str(out / 'wandb')!r}"
        )
        return start("offline")


def _table(columns: Sequence[str], rows: _Rows) -> Any | None:
    import wandb

    return wandb.Table(columns=list(columns), data=rows) if rows else None


_FIGURES = ["cell", "title", "metric", "value", "low", "high", "n", "failed"]


def _figures(report: Report) -> _Rows:
    return [
        [cell.name, cell.title, name, _number(x.value), _number(x.low), _number(x.high), x.n, len(cell.failed)]
        for cell in report.cells
        for name, x in cell.metrics.items()
    ]


_COMPARISONS = ["cell", "baseline", "metric", "difference", "low", "high", "p", "is_better"]


def _comparisons(report: Report) -> _Rows:
    return [
        [c.cell, c.baseline, c.metric, c.difference.value, c.difference.low, c.difference.high, c.p, c.is_better]
        for c in report.comparisons
    ]


def _pictures(gallery: Gallery, rows: Sequence[str]) -> Iterator[list[Any]]:
    for sample in rows:
        pictures = [gallery.references.get(sample), *(cell.get(sample) for cell in gallery.pictures.values())]
        yield [sample, *(None if picture is None else _picture(picture) for picture in pictures)]


def _picture(file: bytes) -> Any:
    import wandb

    return wandb.Image(Image.open(io.BytesIO(file)).convert("RGB"))


def _columns(tables: Mapping[str, SampleTable]) -> list[str]:
    return list(dict.fromkeys(name for table in tables.values() for name in table.names))


def _samples(tables: Mapping[str, SampleTable], rows: Sequence[str]) -> Iterator[list[Any]]:
    names, shown = _columns(tables), set(rows)
    for cell, table in tables.items():
        columns = [table.columns.get(name) for name in names]
        for i, (sample, group) in enumerate(zip(table.ids, table.groups, strict=True)):
            if sample in shown:
                figures = [None if column is None else _number(float(column[i])) for column in columns]
                yield [cell, sample, group, table.failed.get(sample), *figures]


def _summary(report: Report) -> dict[str, Any]:
    figures = {f"{cell.name}/{name}": x.value for cell in report.cells for name, x in cell.metrics.items()}
    counts = {
        "thresholds": len(report.thresholds),
        "thresholds_missed": len(report.misses),
        "checks_failed": sum(check.passed is False for check in report.checks),
        "flags": len(report.flags),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)} | counts


def _number(value: float | None) -> float | None:
    """What JSON has."""
    return value if value is not None and math.isfinite(value) else None
