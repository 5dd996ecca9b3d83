"""Best, median and worst are what the figures say they are."""

import numpy as np
import pytest

from eval_reports import PageInputs, toy_page_inputs
from nigaoe.eval.pages.picks import picked, picked_metric, picks_by


@pytest.fixture(scope="module")
def inputs() -> PageInputs:
    return toy_page_inputs(people=12, side_px=24)


def test_picks_go_from_the_best_to_the_worst() -> None:
    figures = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.4, "e": 0.6, "f": 0.2, "g": 0.8}
    assert picked(figures) == [
        ("best", "b"),
        ("best", "g"),
        ("median", "e"),
        ("median", "c"),
        ("worst", "f"),
        ("worst", "a"),
    ]
    assert picked(figures, each=1) == [("best", "b"), ("median", "c"), ("worst", "a")]
    assert picked(figures, higher_is_better=False, each=1) == [("best", "a"), ("median", "c"), ("worst", "b")]


def test_no_sample_is_picked_twice_and_ties_keep_their_order() -> None:
    assert picked({"b": 1.0, "a": 1.0, "c": 1.0, "d": 1.0}) == [("best", "a"), ("median", "b"), ("worst", "d")]
    assert picked({"a": 1.0, "b": 0.0}) == []


def test_picks_of_a_report_are_the_best_and_worst_with_a_thumbnail(inputs: PageInputs) -> None:
    metric = picked_metric(inputs.report, inputs.tables)
    assert metric == "attribute.mean"
    grids = picks_by(metric, inputs.report, inputs.columns, inputs.tables, inputs.gallery)
    assert [grid.name for grid in grids] == ["photo-first", "photo-plus", "anime-first", "anime-plus", "elsewhere"]
    for grid in grids:
        table = inputs.tables[grid.name]
        values = dict(zip(table.ids, table.columns[metric], strict=True))
        there = [values[s] for s in inputs.gallery.pictures[grid.name]]
        assert len(there) == grid.n == (9 if grid.name == "elsewhere" else 12)
        by_place = {p: [values[row.sample] for row in grid.rows if row.place == p] for p in ("best", "median", "worst")}
        assert by_place["best"] == sorted(there, reverse=True)[:2]
        assert by_place["worst"] == sorted(there, reverse=True)[-2:]
        assert np.mean(by_place["median"]) == pytest.approx(np.median(there), abs=0.12)
        own = [column.cell for column in grid.columns].index(grid.name)
        for row in grid.rows:
            assert row.tiles[own].picture == inputs.gallery.pictures[grid.name][row.sample]
            assert row.tiles[0].picture == inputs.gallery.references[row.sample]
            assert row.tiles[own].figure == f"{100 * values[row.sample]:.1f}\N{NO-BREAK SPACE}%"


def test_systems_stand_side_by_side_with_the_ceiling_last(inputs: PageInputs) -> None:
    grid = picks_by("clip_i", inputs.report, inputs.columns, inputs.tables, inputs.gallery)[0]
    assert [column.cell for column in grid.columns] == [
        None,
        "photo-none",
        "photo-first",
        "photo-plus",
        "anime-none",
        "anime-first",
        "anime-plus",
        "elsewhere",
        "real-anime",
    ]
