"""Buckets hold what people photograph, and views cut out of it what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nigaoe.core.errors import ConfigError
from nigaoe.core.pixels import centre_crop
from nigaoe.train.samples.buckets import Shape, bucket_shapes, nearest
from nigaoe.train.samples.views import cut, require_views, time_ids, view_of


@given(st.integers(1, 24), st.sampled_from([8, 16, 32, 64]), st.integers(1, 64))
def test_buckets_fit_the_base_and_the_memory_of_the_square(sides: int, multiple: int, count: int) -> None:
    resolution = sides * multiple
    shapes = bucket_shapes(resolution, multiple, count)
    assert len(set(shapes)) == len(shapes) <= count
    assert Shape(resolution, resolution) in shapes
    assert {Shape(shape.width, shape.height) for shape in shapes} == set(shapes)
    for shape in shapes:
        assert shape.height % multiple == shape.width % multiple == 0
        assert 0 < shape.height * shape.width <= resolution**2


@pytest.mark.parametrize(
    ("resolution", "multiple", "count", "aspects"),
    [
        (512, 64, 3, [3 / 5, 1, 5 / 3]),
        (1024, 32, 3, [3 / 5, 1, 5 / 3]),
        (1024, 32, 5, [9 / 16, 3 / 4, 1, 4 / 3, 16 / 9]),
        (512, 64, 2, [1]),
        (512, 64, 1, [1]),
    ],
)
def test_few_buckets_are_the_usual_formats(resolution: int, multiple: int, count: int, aspects: list[float]) -> None:
    shapes = bucket_shapes(resolution, multiple, count)
    assert [shape.width / shape.height for shape in shapes] == pytest.approx(aspects, rel=0.07)


def test_buckets_waste_little_of_their_area() -> None:
    for shape in bucket_shapes(1024, 32, 9):
        assert shape.height * shape.width > 0.96 * 1024**2


def test_a_picture_goes_where_its_aspect_ratio_is_nearest() -> None:
    shapes = bucket_shapes(512, 64, 5)
    for height, width in [(100, 100), (4000, 3000), (2000, 3000), (1080, 1920), (90, 900), (900, 90)]:
        found = shapes[nearest(shapes, height, width)]
        distances = [abs(math.log(width / height) - math.log(shape.width / shape.height)) for shape in shapes]
        assert abs(found.log_aspect - math.log(width / height)) == min(distances)


@pytest.mark.parametrize(
    ("resolution", "word"),
    [(500, "500 is no multiple of 64 px, as this base needs; take 448 or 512"), (20, "take 64$")],
)
def test_a_side_that_the_base_cannot_halve_is_refused(resolution: int, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        bucket_shapes(resolution, 64, 3)


def _picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_first_view_is_the_published_crop() -> None:
    image, shape = _picture(90, 130), Shape(64, 64)
    view = view_of("a", 0, Shape(90, 130), shape, ["crop", "flip"])
    assert np.array_equal(np.asarray(cut(image, view)), np.asarray(centre_crop(image, 64)))
    assert time_ids(Shape(90, 130), view) == [90, 130, 0, 14, 64, 64]


def test_other_views_are_mirrored_and_moved_and_always_the_same() -> None:
    image, size, shape = _picture(100, 160), Shape(100, 160), Shape(64, 80)
    first, second, third = (view_of("a", i, size, shape, ["crop", "flip"]) for i in (0, 1, 2))
    assert [view.is_flipped for view in (first, second, third)] == [False, True, False]
    assert len({(view.resized, view.top, view.left) for view in (first, second, third)}) == 3
    assert second == view_of("a", 1, size, shape, ["crop", "flip"])
    assert second != view_of("b", 1, size, shape, ["crop", "flip"])
    mirrored = view_of("a", 1, size, shape, ["flip"])
    assert np.array_equal(np.asarray(cut(image, mirrored)), np.asarray(cut(image, first))[:, ::-1])


@given(st.integers(20, 300), st.integers(20, 300), st.integers(0, 9), st.sampled_from([(64, 64), (48, 80)]))
def test_views_lie_in_the_picture_and_cover_what_it_has(height: int, width: int, index: int, shape: object) -> None:
    target = Shape(*shape)  # type: ignore[misc]
    view = view_of("key", index, Shape(height, width), target, ["crop", "flip"])
    assert 0 <= view.top <= view.resized.height - target.height
    assert 0 <= view.left <= view.resized.width - target.width
    scale = max(target.height / height, target.width / width)
    assert view.resized.height / height == pytest.approx(scale, rel=0.16, abs=1 / height)
    assert cut(_picture(height, width), view).size == (target.width, target.height)


def test_views_that_would_be_equal_are_refused() -> None:
    require_views(2, ["flip"])
    require_views(9, ["crop"])
    with pytest.raises(ConfigError, match=r"views is 3 and data.augment \(flip\) makes 2 that differ; lower views or"):
        require_views(3, ["flip"])
    with pytest.raises(ConfigError, match=r"augment \(nothing\) makes 1"):
        require_views(2, [])
