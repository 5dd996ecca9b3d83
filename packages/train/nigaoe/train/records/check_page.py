"""A check as a page that needs nothing but itself: figures, histograms, samples, and every kind of finding."""

import io
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nigaoe.core.atomic import write_whole
from nigaoe.core.pages import data_uri, render_page
from nigaoe.train.records.charts import HEIGHT, WIDTH, Chart, chart
from nigaoe.train.records.check_report import DatasetCheck
from nigaoe.train.records.findings import KINDS, Finding, Kind, Severity, is_left_out
from nigaoe.train.records.pictures import read_picture
from nigaoe.train.records.record import Picture

SAMPLES = 20
EXAMPLES = 6
"""Of each kind of finding."""
SHOWN_ROWS = 40
"""Of each kind of finding; `check.json` has all."""
THUMBNAIL_PX = 144
"""On the page; the copies have twice as many for fine screens."""
_ASPECT_TICKS = ((1 / 3, "1:3"), (1 / 2, "1:2"), (2 / 3, "2:3"), (1, "1:1"), (3 / 2, "3:2"), (2, "2:1"), (3, "3:1"))


@dataclass(frozen=True)
class Section:
    """One kind of finding on the page."""

    kind: Kind
    count: int
    rows: list[Finding]
    pictures: list[tuple[str, str]]
    """Keys and data URIs."""


@dataclass(frozen=True)
class Shown:
    """Keys of the rows whose pictures the page shows."""

    samples: list[str]
    """Of usable rows, at random."""
    examples: dict[str, list[str]]
    """The first of each kind of finding."""

    @property
    def keys(self) -> set[str]:
        """All of them."""
        return {*self.samples, *(key for keys in self.examples.values() for key in keys)}


def choose_shown(report: DatasetCheck, keys: Sequence[str]) -> Shown:
    """Choose among all rows' `keys`; the same ones every time."""
    left_out = {finding.key for finding in report.findings if is_left_out(finding.kind)}
    usable = [key for key in keys if key not in left_out]
    examples: dict[str, list[str]] = {}
    for finding in report.findings:
        first = examples.setdefault(finding.kind, [])
        if len(first) < EXAMPLES and finding.key not in first:
            first.append(finding.key)
    return Shown(random.Random(0).sample(usable, min(SAMPLES, len(usable))), examples)


def thumbnails_of(pictures: Sequence[Picture]) -> list[bytes]:
    """Small WebP copies; nothing for those that cannot be read."""
    return [_thumbnail(picture) for picture in pictures]


def write_page(path: Path, report: DatasetCheck, shown: Shown, thumbnails: Mapping[str, bytes]) -> None:
    """Write `report.html`; `thumbnails`: by key, of those shown that can be read."""
    uris = {key: data_uri(thumbnail) for key, thumbnail in thumbnails.items()}
    rows: dict[str, list[Finding]] = {}
    for finding in report.findings:
        rows.setdefault(finding.kind, []).append(finding)
    sections: dict[Severity, list[Section]] = {severity: [] for severity in Severity}
    for name, kind in KINDS.items():
        if name in rows:
            pictures = [(key, uris[key]) for key in shown.examples[name] if key in uris]
            sections[kind.severity].append(Section(kind, len(rows[name]), rows[name][:SHOWN_ROWS], pictures))
    html = render_page(
        Path(__file__).parent / "check.html.j2",
        report=report,
        charts=_charts(report),
        chart_width=WIDTH,
        chart_height=HEIGHT,
        samples=[(key, uris[key]) for key in shown.samples if key in uris],
        severities=[(severity, found) for severity, found in sections.items() if found],
    )
    write_whole(path, html.encode())


def _thumbnail(picture: Picture) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read_picture(picture)
    # A picture that no decoder survives has been told of already.
    except Exception:
        return b""
    image.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX) if max(image.size) > 2 * THUMBNAIL_PX else image.size)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=75)
    return file.getvalue()


def _charts(report: DatasetCheck) -> list[Chart]:
    size, limit = report.resolution_px, report.token_limit
    return [
        chart(
            "Short side",
            f"px; training needs {size}",
            report.short_sides_px,
            mark=(size, f"{size}"),
        ),
        chart("Aspect ratio", "width over height", report.aspect_ratios, ticks=_ASPECT_TICKS),
        chart(
            "Caption length",
            f"tokens; {limit} are read",
            report.caption_tokens,
            mark=(limit + 1, f"{limit}"),
            is_beyond=lambda edge: edge > limit,
        ),
        chart("Rows of one identity", "identities with so many rows", report.rows_per_identity),
    ]
