"""The page of an evaluation: every section where there is something to say, and nowhere else."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from eval_reports import SCALES, PageInputs, toy_page_inputs
from nigaoe.core.reports import Cell, Check, Control, Estimate, Metric, Report
from nigaoe.eval.pages.doubts import checks_in_order
from nigaoe.eval.pages.figure_tables import figure_tables
from nigaoe.eval.pages.headlines import headline_texts
from nigaoe.eval.pages.size_chart import size_charts
from nigaoe.eval.pages.sweep_chart import sweep_sections
from nigaoe.eval.pages.systems import identity_metric, is_ceiling
from nigaoe.eval.pages.verdicts import broken_controls, verdict_tables
from nigaoe.eval.protocols.protocol import Headline
from nigaoe.eval.running.gallery import Gallery

SECTIONS = (
    "In short",
    "Verdict",
    "Best, median and worst",
    "Scale: likeness against obedience",
    "Is it the same person?",
    "Is it like the reference?",
    "Style, background and prompt",
    "Distributions",
    "Sanity checks",
    "Controls",
    "Samples without a figure, and prompts cut short",
    "Thresholds",
    "Notes",
    "Where it came from",
)


@pytest.fixture(scope="module")
def inputs() -> PageInputs:
    return toy_page_inputs(people=9, side_px=24)


@pytest.fixture(scope="module")
def page(inputs: PageInputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    return inputs.write(tmp_path_factory.mktemp("page"))


def _headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def _with_report(inputs: PageInputs, **changes: object) -> PageInputs:
    report = inputs.report.model_copy(update=changes)
    return PageInputs(
        report, inputs.columns, inputs.caption, inputs.headlines, inputs.rows[:1], inputs.tables, inputs.gallery
    )


def _changed_cells(report: Report, **changes: object) -> list[Cell]:
    return [cell.model_copy(update=changes) for cell in report.cells]


def test_everything_stands_on_a_full_page_in_its_order(page: str) -> None:
    assert tuple(_headings(page)) == SECTIONS


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    empty = {"meta", "img", "hr", "br", "line", "path", "circle"}

    class Nesting(HTMLParser):
        open_tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert "onload" not in dict(attrs)
            if tag not in empty:
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in empty:
                assert self.open_tags.pop() == tag

    parser = Nesting()
    parser.feed(page)
    assert parser.open_tags == []
    sources = re.findall(r'(?:src|href)="(.{0,16})', page)
    assert sources
    assert all(source.startswith("data:image/webp;") for source in sources)
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)


def test_a_bare_report_has_no_empty_section(inputs: PageInputs, tmp_path: Path) -> None:
    bare = Cell(name="photo-none", title="Photo base", base="toy/photo", adapter=None, prompt=None, n=9, metrics={})
    report = Report(title="Bare", cells=[bare])
    page = PageInputs(report, inputs.columns[:2], "", [], inputs.rows[:1], {}, inputs.gallery).write(tmp_path)
    assert _headings(page) == ["Where it came from"]
    assert 'class="alarm"' not in page
    assert "<table" in page
    assert "<svg" not in page
    assert "<details" not in page


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"comparisons": []}, {"Verdict", "Best, median and worst"}),
        ({"sweeps": []}, {"Scale: likeness against obedience"}),
        ({"checks": []}, {"Sanity checks"}),
        ({"thresholds": []}, {"Thresholds"}),
        ({"notes": []}, {"Notes"}),
    ],
)
def test_a_section_goes_with_what_it_shows(
    inputs: PageInputs, tmp_path: Path, changes: dict[str, object], gone: set[str]
) -> None:
    page = _with_report(inputs, **changes).write(tmp_path)
    assert set(SECTIONS) - set(_headings(page)) == gone


def test_controls_curves_and_failures_go_with_their_cells(inputs: PageInputs, tmp_path: Path) -> None:
    cells = _changed_cells(inputs.report, controls={}, size_curves={}, failed={}, cut_prompts=0)
    page = _with_report(inputs, cells=cells).write(tmp_path)
    gone = {"Controls", "Samples without a figure, and prompts cut short"}
    assert set(SECTIONS) - set(_headings(page)) == gone
    assert "By the number of samples" not in page
    assert "shuffled references" not in page


def test_titles_of_strangers_are_text(inputs: PageInputs, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    cells = _changed_cells(inputs.report, title=evil, failed={evil: evil}, cut_prompts=1)
    metrics = {name: metric.model_copy(update={"title": evil, "setting": evil}) for name, metric in _metrics(inputs)}
    page = _with_report(
        inputs,
        title=evil,
        notes=[evil],
        flags=[evil],
        provenance={evil: evil},
        cells=cells,
        metrics=metrics,
        checks=[Check(name=evil, passed=None, detail=evil)],
        sweeps=[sweep.model_copy(update={"title": evil}) for sweep in inputs.report.sweeps],
    ).write(tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 50


def _metrics(inputs: PageInputs) -> list[tuple[str, Metric]]:
    return list(inputs.report.metrics.items())


def test_the_grid_opens_and_shows_where_a_sample_failed(inputs: PageInputs, page: str, tmp_path: Path) -> None:
    inputs.write(tmp_path)
    with Image.open(tmp_path / "grid.png") as grid:
        grid.load()
        assert grid.format == "PNG"
        assert grid.width == 16 * 2 + len(inputs.columns) * 200 - 8
        at = 16 + 6 * 200 + 96, grid.height - 16 - 96 - 2 * 200
        assert grid.getpixel(at) == (232, 230, 236), "the folder lacks its second sample"
    first = page[: page.index("In short")]
    assert first.count("<img") == 4 * len(inputs.columns) - 1
    assert first.count(">no picture<") == 1


def test_the_banner_says_what_is_doubtful_and_stays_away_otherwise(
    inputs: PageInputs, tmp_path: Path, page: str
) -> None:
    assert 'class="alarm"' in page
    assert "3 of 24 samples have no picture" in page[: page.index("In short")]
    passed = [check.model_copy(update={"passed": True}) for check in inputs.report.checks]
    calm = _with_report(inputs, flags=[], checks=passed)
    assert 'class="alarm"' not in calm.write(tmp_path)
    assert [check.passed for check in checks_in_order(inputs.report)] == [False, None, True]


def test_a_metric_that_does_not_fall_is_broken_where_the_reference_was_seen(inputs: PageInputs) -> None:
    flat = Control(matched=0.7, shuffled=0.7, auc=0.5, gap=Estimate(value=0.0, n=9), n_wrong=27, is_broken=True)
    report = inputs.report.model_copy(
        update={"cells": _changed_cells(inputs.report, controls={"clip_i": flat, "clip_t": flat}), "flags": []}
    )
    broken = broken_controls(report)
    assert ("photo-none", "clip_t") in broken
    assert ("photo-none", "clip_i") not in broken, "without an adapter nothing can fall"
    assert ("photo-first", "clip_i") in broken
    assert ("elsewhere", "clip_i") in broken


def test_verdicts_are_those_of_the_comparisons_identity_first(inputs: PageInputs) -> None:
    first, rest = verdict_tables(inputs.report)
    assert first is not None
    assert rest is not None
    assert [head.name for head in first.heads] == ["attribute.mean", "clip_i", "dino_i", "clip_t"]
    assert {head.name for head in rest.heads} == {c.metric for c in inputs.report.comparisons} - {
        head.name for head in first.heads
    }
    assert [group.name for group in first.groups] == [
        "photo-first",
        "photo-plus",
        "anime-first",
        "anime-plus",
        "elsewhere",
    ]
    words = {True: "better", False: "worse", None: "cannot be told apart"}
    for group in first.groups:
        assert group.lines[-1].title == "shuffled references"
        for line in group.lines[:-1]:
            for head, entry in zip(first.heads, line.entries, strict=True):
                (said,) = [
                    c
                    for c in inputs.report.comparisons
                    if (c.cell, c.baseline, c.metric) == (group.name, line.name, head.name)
                ]
                assert entry is not None
                assert entry.word == words[said.is_better]
                sign = -1 if entry.figure.startswith("\N{MINUS SIGN}") else 1
                size = float(entry.figure.strip("+\N{MINUS SIGN}")) / (100 if head.unit else 1)
                assert sign * size == pytest.approx(said.difference.value, abs=6e-4)


def test_the_shuffled_baseline_shows_gap_and_auc(inputs: PageInputs) -> None:
    table, _ = verdict_tables(inputs.report)
    assert table is not None
    entry = table.groups[0].lines[-1].entries[1]
    control = inputs.report.cell("photo-first").controls["clip_i"]
    assert entry is not None
    assert float(entry.figure) == pytest.approx(control.gap.value, abs=6e-4)
    assert entry.beside == f"AUC\N{NO-BREAK SPACE}{control.auc:.3f}"


def test_tables_follow_what_the_report_says_of_metrics(inputs: PageInputs) -> None:
    tables = {table.title: table for table in figure_tables(inputs.report)}
    person = tables["Is it the same person?"]
    assert person.heads[0].name == "attribute.mean"
    assert {head.arrow for head in person.heads} == {"\N{UPWARDS ARROW}"}
    mean = person.rows[0].figures[0]
    assert mean is not None
    assert (mean.text, mean.share) == ("100.0", 1.0)
    arrows = {head.name: head.arrow for head in tables["Distributions"].heads}
    assert arrows["fd_clip"] == "\N{DOWNWARDS ARROW}"
    assert arrows["recall_clip"] == "\N{UPWARDS ARROW}"
    assert [head.arrow for head in tables["Style, background and prompt"].heads] == ["", "\N{UPWARDS ARROW}"]
    shown = [head.name for table in tables.values() for head in table.heads]
    assert sorted(shown) == sorted(inputs.report.metrics), "every metric once"


def test_real_pictures_are_ceilings_and_a_folder_is_none(inputs: PageInputs) -> None:
    ceilings = [cell.name for cell in inputs.report.cells if is_ceiling(cell)]
    assert ceilings == ["real-photo", "real-anime"]
    whole = inputs.report.model_copy(update={"cells": _changed_cells(inputs.report, failed={})})
    assert not is_ceiling(whole.cell("elsewhere"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["clip_i", "attribute.mean", "face_dlib_found", "face_dlib_auc", "face_dlib"], "face_dlib"),
        (["clip_i", "attribute.mean", "face_dlib_found"], "attribute.mean"),
        (["clip_t", "clip_i"], "clip_i"),
        (["clip_t"], None),
    ],
)
def test_identity_is_the_face_else_attributes_else_clip_i(names: list[str], expected: str | None) -> None:
    assert identity_metric(names) == expected


def test_the_sweep_runs_through_its_scales_and_starts_without_an_adapter(inputs: PageInputs) -> None:
    (section,) = sweep_sections(inputs.report)
    assert [title for title, kind, _ in section.chart.legend if kind == "mark"] == [
        "Photo base, no adapter",
        "Anime base, no adapter",
    ]
    scales = ["no adapter", *(f"{scale:g}" for scale in SCALES)]
    assert [[row.scale for row in table.rows] for table in section.tables] == [scales, scales]
    figure = inputs.report.cell("photo-first@0.5").metrics["clip_i"].value
    assert float(section.tables[0].rows[2].figures[0][0]) == pytest.approx(figure, abs=6e-4)
    for plot in section.chart.plots.values():
        # Two lines of five scales and two rings, each with whiskers on both axes.
        assert len(plot.marks) == 12
        assert len(plot.whiskers) == 24
        assert len(plot.paths) == 2


def test_size_curves_leave_out_further_scales_and_end_at_infinity(inputs: PageInputs) -> None:
    charts = size_charts(inputs.report)
    assert [chart.title for chart in charts] == [
        "FD (clip), no base of this run",
        "FD (clip), toy/photo",
        "FD (clip), toy/anime",
    ]
    assert not any("scale" in title for chart in charts for title, _, _ in chart.legend)
    (plot,) = charts[1].plots.values()
    left, _, right, _ = plot.area
    assert plot.x_ticks[0] == (left, "\N{INFINITY}")
    assert plot.x_ticks[-1] == (right, "2")
    rings = [mark for mark in plot.marks if mark.kind == "mark"]
    assert [ring.x for ring in rings] == [left] * 3


def test_a_headline_without_a_figure_is_left_out(inputs: PageInputs) -> None:
    lines = [
        Headline("known", "photo-first", "clip_i", (("lost", "photo-none", "nothing"),)),
        Headline("lost", "nobody", "clip_i"),
    ]
    (text,) = headline_texts(lines, inputs.report)
    assert (text.title, text.beside) == ("known", "")


def test_references_alone_make_no_picked_grid(inputs: PageInputs, tmp_path: Path) -> None:
    gallery = Gallery(inputs.gallery.references, {})
    page = PageInputs(
        inputs.report, inputs.columns, inputs.caption, inputs.headlines, inputs.rows, inputs.tables, gallery
    ).write(tmp_path)
    assert "Best, median and worst" not in page
    assert page.count(">no picture<") == 4 * (len(inputs.columns) - 1)
    assert Image.open(io.BytesIO((tmp_path / "grid.png").read_bytes())).width > 1000
