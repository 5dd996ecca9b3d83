"""A picture is the same picture however it comes, and what could only be guessed at is refused by name."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.errors import ImageError
from nigaoe.core.pixels import ImageLike
from nigaoe.eval.scoring.clip import ClipScorer
from nigaoe.eval.scoring.judge import JudgeScorer
from nigaoe.eval.scoring.pictures import picture, pictures, sift


def _pixels(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _forms(pixels: np.ndarray) -> dict[str, ImageLike]:
    chw = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    floats = pixels.astype(np.float32) / 255
    return {
        "PIL": Image.fromarray(pixels),
        "uint8 [H, W, 3]": pixels,
        "uint8 [3, H, W]": torch.from_numpy(chw),
        "float32 [H, W, 3]": floats,
        "float32 [3, H, W]": torch.from_numpy(chw).float() / 255,
        "float64": floats.astype(np.float64),
        "float16": torch.from_numpy(chw).float().div(255).half(),
    }


def test_all_forms_of_a_picture_have_one_embedding(clip: ClipScorer, judge: JudgeScorer) -> None:
    for network in (clip, judge):
        rows = {name: network.features([form]) for name, form in _forms(_pixels()).items()}
        for name, row in rows.items():
            assert np.array_equal(row, rows["PIL"]), name
        assert not np.array_equal(rows["PIL"], network.features([_pixels(seed=1)]))


def test_a_batch_is_its_pictures(clip: ClipScorer) -> None:
    batch = torch.from_numpy(np.stack([_pixels(seed=i) for i in range(3)])).permute(0, 3, 1, 2)
    assert np.array_equal(clip.features(batch), clip.features([_pixels(seed=i) for i in range(3)]))


def test_every_level_survives_the_way_through_floats() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([levels] * 3, axis=2)
    for form in (pixels / 255, (pixels / 255).astype(np.float32), torch.from_numpy(pixels / 255).half()):
        assert np.array_equal(np.asarray(picture(form)), pixels)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x / 255 / 255, "rescaled twice"),
        # White is rounded up in float32, to a little more than 1 / 255.
        (lambda x: np.full(x.shape, 255, np.float32) / np.float32(255) / np.float32(255), "rescaled twice"),
        (lambda x: x / 127.5 - 1, "must lie in"),
        (lambda x: x.astype(np.float32), "must lie in"),
        (lambda x: np.where(x > 200, np.nan, x / 255), "must lie in"),
        (lambda x: np.where(x > 200, np.inf, x / 255), "must lie in"),
        (lambda x: x.astype(np.uint16) * 257, "dtype uint16"),
        (lambda x: x.astype(np.int64), "dtype int64"),
        (lambda x: x > 127, "dtype bool"),
        (lambda x: x[..., :1], r"shape \[40, 56, 1\]"),
        (lambda x: np.concatenate([x, x[..., :1]], axis=2), r"shape \[40, 56, 4\]"),
        (lambda x: x[None], "shape"),
        (lambda x: x[:3, :3].reshape(3, 3, 3), "two ways"),
        (lambda x: [[1, 2], [3, 4]], "type list"),
    ],
)
def test_what_must_be_guessed_at_is_refused(spoil: Callable[[np.ndarray], ImageLike], words: str) -> None:
    spoilt = spoil(_pixels())
    with pytest.raises(ImageError, match=words):
        picture(spoilt)
    if isinstance(spoilt, np.ndarray) and spoilt.dtype != np.uint16:
        with pytest.raises(ImageError, match=words):
            picture(torch.from_numpy(spoilt.copy()))


def test_black_is_a_picture_and_no_mistake() -> None:
    assert picture(np.zeros((8, 9, 3), np.float32)).getextrema() == ((0, 0),) * 3


def test_modes_become_rgb_rightly() -> None:
    grey = Image.fromarray(_pixels()[..., 0])
    levels = np.asarray(grey)
    assert np.array_equal(np.asarray(picture(grey)), np.stack([levels] * 3, axis=2))
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    assert deep.mode.startswith("I;16")
    assert np.array_equal(np.asarray(picture(deep))[..., 0], levels)
    ink = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    ink.putpixel((1, 2), (0, 0, 255, 255))
    over_white = picture(ink)
    assert over_white.getpixel((0, 0)) == (255, 255, 255)
    assert over_white.getpixel((1, 2)) == (0, 0, 255)
    few = Image.fromarray(_pixels()).quantize(16)
    assert np.array_equal(np.asarray(picture(few)), np.asarray(few.convert("RGB")))
    few.info["transparency"] = few.getpixel((0, 0))
    assert picture(few).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "HSV", "YCbCr", "I", "F"])
def test_modes_without_a_certain_meaning_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match=mode):
        picture(Image.new(mode, (8, 8)))


def test_a_picture_is_turned_as_its_exif_says() -> None:
    upright = Image.fromarray(_pixels(16, 24))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, format="PNG", exif=exif)
    with Image.open(buffer) as turned:
        assert turned.size == (16, 24)
        assert np.array_equal(np.asarray(picture(turned)), np.asarray(upright))


def test_a_torn_file_is_named_and_the_others_are_kept() -> None:
    buffer = io.BytesIO()
    Image.fromarray(_pixels()).save(buffer, format="PNG")
    with Image.open(io.BytesIO(buffer.getvalue()[:900])) as torn:
        readable, refused = sift([_pixels(), torn, _pixels(seed=1) / 255 / 255], ["a", "b", "c"])
    assert list(readable) == ["a"]
    assert "truncated" in refused["b"]
    assert "twice" in refused["c"]
    with pytest.raises(ImageError, match="picture 2 of 2"):
        pictures([_pixels(), _pixels() - 0.5])
    with pytest.raises(ImageError, match="no pictures"):
        pictures([])


def test_neither_the_size_of_a_batch_nor_a_second_look_matters(clip: ClipScorer) -> None:
    images = [_pixels(seed=i) for i in range(5)]
    whole = clip.features(images)
    single = np.concatenate([clip.features([image]) for image in images])
    np.testing.assert_allclose(whole, single, rtol=0, atol=1e-5)
    assert np.array_equal(whole, clip.features(images))
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    assert not clip.model.training


def test_a_picture_that_is_as_it_should_be_stays_the_same_object() -> None:
    ready = Image.fromarray(_pixels())
    assert picture(ready) is ready
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    ready.save(buffer, format="PNG", exif=exif)
    turned = Image.open(buffer)
    assert np.array_equal(np.asarray(picture(turned)), np.rot90(_pixels(), k=-1))
    clear = Image.new("RGB", (4, 4), "red")
    clear.info["transparency"] = (255, 0, 0)
    assert picture(clear).getpixel((0, 0)) == (255, 255, 255)
