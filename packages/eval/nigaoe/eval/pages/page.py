"""The report as a page that needs nothing but itself, and its picture grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nigaoe.core.atomic import write_whole
from nigaoe.core.pages import data_uri, render_page
from nigaoe.core.reports import Report
from nigaoe.eval.pages.doubts import checks_in_order, cut_prompts, failures
from nigaoe.eval.pages.figure_tables import figure_tables, metric_names
from nigaoe.eval.pages.grid import collect_grid, grid_png
from nigaoe.eval.pages.headlines import headline_texts
from nigaoe.eval.pages.picks import picked_metric, picks_by
from nigaoe.eval.pages.size_chart import size_charts
from nigaoe.eval.pages.sweep_chart import sweep_sections
from nigaoe.eval.pages.systems import metric_of
from nigaoe.eval.pages.verdicts import broken_controls, control_table, verdict_tables
from nigaoe.eval.protocols.protocol import Column, Headline
from nigaoe.eval.running.gallery import Gallery
from nigaoe.eval.running.tables import SampleTable

_TEMPLATE = "report.html.j2"


def write_page(
    out: Path,
    report: Report,
    columns: Sequence[Column],
    caption: str,
    headlines: Sequence[Headline],
    rows: Sequence[str],
    tables: Mapping[str, SampleTable],
    gallery: Gallery,
) -> None:
    """Write `report.html` and `grid.png`.

    Args:
        out: Folder for both.
        report: What is reported.
        columns: Of the first picture grid, which shows the samples `rows`, chosen before any was scored.
        caption: How they were chosen.
        headlines: What to say first.
        rows: Sample ids in order.
        tables: Figures per sample by cell, by which the other grids are picked.
        gallery: Pictures.
    """
    grid = collect_grid(columns, rows, gallery)
    write_whole(out / "grid.png", grid_png(grid))
    verdicts, further = verdict_tables(report)
    metric = picked_metric(report, tables)
    html = render_page(
        Path(__file__).parent / _TEMPLATE,
        report=report,
        banner=report.flags,
        grid=grid,
        uri=data_uri,
        caption=caption,
        headlines=headline_texts(headlines, report),
        verdicts=verdicts,
        further_verdicts=further,
        picked_by=metric_of(report, metric) if metric else None,
        picks=picks_by(metric, report, columns, tables, gallery) if metric else [],
        sweeps=sweep_sections(report),
        tables=figure_tables(report),
        size_charts=size_charts(report),
        checks=checks_in_order(report),
        controls=control_table(report),
        n_controls=sum(len(cell.controls) for cell in report.cells),
        n_broken=len(broken_controls(report)),
        failures=failures(report),
        cut_prompts=cut_prompts(report),
        meanings={name: metric_of(report, name) for name in metric_names(report, report.cells)},
        titles={cell.name: cell.title for cell in report.cells},
    )
    write_whole(out / "report.html", html.encode())
