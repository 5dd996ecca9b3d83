"""Charts: known values land where they belong, and labels lie clear of one another."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nigaoe.eval.pages.charts import Axis, Plot, Point, Series, lay_out


def _square(series: list[Series]) -> Plot:
    axis = Axis("", [(0.0, "0"), (1.0, "1")])
    return lay_out(series, axis, axis, width=160, height=168)


def test_known_values_have_known_places() -> None:
    # Margins: 46 and 14 px across, 26 and 42 px down; the plot is 100 x 100 px.
    point = Point(0.25, 0.75, x_interval=(0.0, 0.5), y_interval=(0.5, 1.0))
    plot = _square([Series("one", [point, Point(1.0, 0.0)])])
    assert plot.area == (46, 26, 146, 126)
    assert [(mark.x, mark.y) for mark in plot.marks] == [(71.0, 51.0), (146.0, 126.0)]
    assert plot.paths == [("line", 0, "M71.0 51.0L146.0 126.0")]
    assert plot.whiskers == [(0, "M46.0 51.0H96.0"), (0, "M71.0 76.0V26.0")]
    assert plot.x_ticks == [(46.0, "0"), (146.0, "1")]
    assert plot.y_ticks == [(126.0, "0"), (26.0, "1")]


def test_lone_marks_are_not_joined_and_dashes_are_not_marked() -> None:
    ends = [Point(0.0, 0.0), Point(1.0, 1.0)]
    plot = _square([Series("rings", ends, "mark", 1), Series("", ends, "dashed", 2)])
    assert plot.paths == [("dashed", 2, "M46.0 126.0L146.0 26.0")]
    assert [mark.colour for mark in plot.marks] == [1, 1]


def test_whiskers_lie_within_the_axes() -> None:
    point = Point(0.5, 100.0, x_interval=(0.1, 0.9), y_interval=(60.0, 140.0))
    plot = lay_out([Series("one", [point])], Axis("x"), Axis("y"), 400, 300)
    left, top, right, bottom = plot.area
    assert [label for _, label in plot.y_ticks][0] == "60"
    for path in (path for _, path in plot.whiskers):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
        across = path.count("H")
        low, high = (left, right) if across else (top, bottom)
        shown = (numbers[0], numbers[2]) if across else (numbers[1], numbers[2])
        assert all(low <= number <= high for number in shown)


def test_a_lone_figure_has_axes_too() -> None:
    plot = lay_out([Series("one", [Point(0.3, 0.0)])], Axis("x"), Axis("y"), 400, 300)
    left, top, right, bottom = plot.area
    (mark,) = plot.marks
    assert left < mark.x < right
    assert top < mark.y < bottom


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.1, 0.4), st.floats(0.3, 0.9)), min_size=1, max_size=16),
    st.sampled_from([(760, 430), (364, 330)]),
)
def test_labels_hit_neither_one_another_nor_a_mark_nor_an_edge(
    places: list[tuple[float, float]], size: tuple[int, int]
) -> None:
    points = [Point(x, y, label=f"{i / 4:g}") for i, (x, y) in enumerate(places)]
    plot = lay_out([Series("one", points)], Axis("x"), Axis("y"), *size)
    left, top, right, bottom = plot.area
    boxes = [(t.x - 3.1 * len(t.text), t.y - 9, t.x + 3.1 * len(t.text), t.y + 2) for t in plot.labels]
    boxes += [(mark.x - 3, mark.y - 3, mark.x + 3, mark.y + 3) for mark in plot.marks]
    labels = boxes[: len(plot.labels)]
    for i, box in enumerate(labels):
        assert left <= box[0] <= box[2] <= right
        assert top <= box[1] <= box[3] <= bottom
        for other in boxes[i + 1 :]:
            assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]


def test_points_with_room_all_have_their_label() -> None:
    points = [Point(x / 5, x / 5, label=f"{x:g}") for x in range(5)]
    plot = lay_out([Series("one", points)], Axis("x"), Axis("y"), 760, 430)
    assert [text.text for text in plot.labels] == [point.label for point in points]
    for text, mark in zip(plot.labels, plot.marks, strict=True):
        assert text.x == pytest.approx(mark.x, abs=40)
