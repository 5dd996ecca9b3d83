"""Let an adapter be served if its report says that it is good enough."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from nigaoe.core.adapters.fetching import MANIFEST, WEIGHTS, fetch_version, is_address, is_published, read_published
from nigaoe.core.adapters.files import adapter_file
from nigaoe.core.config import load_config
from nigaoe.core.errors import DataError
from nigaoe.core.manifests import AdapterManifest, read_adapter_manifest
from nigaoe.core.registry import Registry, require_name
from nigaoe.core.reports import Report, read_report
from nigaoe.core.storage import absolute, join
from nigaoe.core.transfers import sha256_of
from nigaoe.eval.gate import GateConfig, misses

REPORT = "report.json"
PROMOTION = "promotion"
"""Key of `Training.metrics` under which a published manifest has the figures that let the adapter pass."""


class Promoted(NamedTuple):
    """An adapter that passed."""

    name: str
    where: str
    """`<registry>/<name>`."""
    num_thresholds: int


class _Candidate(NamedTuple):
    file: Path
    manifest: AdapterManifest | None
    """None of a file that comes alone."""


def promote(adapter: str, report: Path, gate: Path, registry: str, name: str | None = None) -> Promoted:
    """Publish an adapter that its report lets pass; doing it again changes nothing.

    Args:
        adapter: A file, the folder of a run or an adapter of another registry.
        report: `report.json`, or the folder of the run that wrote it.
        gate: A YAML file, see `GateConfig`.
        registry: A folder or a bucket.
        name: What servers call it; that of its manifest or, of a lone file, its stem when absent.

    Raises:
        AdapterError: It is no whole adapter.
        ConfigError: The gate or the name is wrong.
        DataError: The report is of another adapter or misses something, or the registry cannot be written.
    """
    demanded = load_config(gate, GateConfig)
    found = read_report(report / REPORT if report.is_dir() else report)
    candidate = _candidate(adapter)
    sha256 = sha256_of(str(candidate.file))
    names = {known for known, known_sha256 in found.adapters.items() if known_sha256 == sha256}
    if not names:
        known = ", ".join(f"{name} {digest[:12]}" for name, digest in found.adapters.items())
        raise DataError(
            f"report {str(report)!r} is not of {adapter!r} (SHA-256 {sha256[:12]}), but of {known or 'no adapter'}; "
            "evaluate this very file"
        )
    if missed := misses(demanded, found, names):
        raise DataError(f"{adapter!r} is not promoted, for it misses {len(missed)}: {'; '.join(missed)}")
    manifest = candidate.manifest or _manifest_of(candidate.file, name)
    target = Registry(registry)
    entry = target.publish(candidate.file, _with_figures(manifest, demanded, found), name)
    return Promoted(entry.name, join(absolute(registry), entry.name), len(demanded.thresholds))


def _candidate(adapter: str) -> _Candidate:
    if is_address(adapter) or is_published(Path(adapter)):
        published = read_published(adapter)
        return _Candidate(fetch_version(published.where, published.sha256), published.manifest)
    file = adapter_file(Path(adapter))
    beside = file.with_name(MANIFEST)
    # Of the other files of a folder it says nothing.
    is_own = file.name == WEIGHTS and beside.is_file()
    return _Candidate(file, read_adapter_manifest(beside) if is_own else None)


def _manifest_of(file: Path, name: str | None) -> AdapterManifest:
    """As of an upload, but dated by the file, so that to promote it again writes the same."""
    from nigaoe.core.adapters.vetting import vet_adapter

    called = file.stem if name is None else name
    require_name(called)
    created = datetime.fromtimestamp(int(file.stat().st_mtime), UTC)
    return vet_adapter(file.resolve(), f"adapter file {str(file)!r}").manifest(called, created)


def _with_figures(manifest: AdapterManifest, gate: GateConfig, report: Report) -> AdapterManifest:
    """The manifest with the figures of the gate, where it has a place for them: that of an upload has none."""
    if manifest.training is None:
        return manifest
    figures = {f"{t.cell} {t.metric}": report.cell(t.cell).metrics[t.metric].value for t in gate.thresholds}
    # JSON has no other numbers.
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    metrics = manifest.training.metrics | {PROMOTION: finite}
    return manifest.model_copy(update={"training": manifest.training.model_copy(update={"metrics": metrics})})
