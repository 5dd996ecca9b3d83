"""Reference pictures that are not square, and pictures of noise."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from nigaoe.core.errors import ImageError, NigaoeError, RequestError
from nigaoe.core.image_prompts.crops import (
    CLIP_MEAN,
    CLIP_MEAN_COLOUR,
    CROP_MODES,
    MAX_TILES,
    CropMode,
    crop_reference,
    mean_colour,
)
from nigaoe.core.image_prompts.noise import NOISE_KINDS, NoiseKind, noise_picture

SIDES = st.integers(8, 64)
LENGTHS = st.integers(1, 150)
QUICK = settings(deadline=None, max_examples=60)


def _random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _ramp(long: int, short: int, *, upright: bool) -> Image.Image:
    """Brighter by one grey level per pixel of the long side, from 0 on."""
    row = np.tile(np.arange(long, dtype=np.uint8), (short, 1))
    return Image.fromarray(np.repeat((row.T if upright else row)[:, :, None], 3, axis=2))


def _processor(side: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _seen(image: Image.Image, side: int) -> np.ndarray:
    """What CLIP's processor makes of a picture, in grey levels."""
    pixels = np.asarray(_processor(side)(images=image, return_tensors="np")["pixel_values"][0])
    mean, std = (np.array(values)[:, None, None] for values in (CLIP_MEAN, CLIPImageProcessorPil.image_std))
    return np.asarray((pixels * std + mean) * 255)


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@QUICK
@given(length=st.integers(1, 150), side=SIDES)
def test_a_square_is_what_the_processor_makes_of_it_in_every_mode(length: int, side: int) -> None:
    picture = _random_picture(length, length)
    for mode in CROP_MODES:
        (square,) = crop_reference(picture, mode, side)
        np.testing.assert_array_equal(_seen(square, side), _seen(picture, side))


@QUICK
@given(width=LENGTHS, height=LENGTHS, side=SIDES)
def test_centre_is_what_the_processor_does(width: int, height: int, side: int) -> None:
    picture = _random_picture(width, height)
    (square,) = crop_reference(picture, "centre", side)
    assert square.size == (side, side)
    np.testing.assert_array_equal(_seen(square, side), _seen(picture, side))


@pytest.mark.parametrize("upright", [False, True])
def test_centre_goes_where_it_is_told(upright: bool) -> None:
    picture = _ramp(240, 40, upright=upright)
    firsts, lasts = [], []
    for along in (0.0, 0.25, 0.5, 1.0):
        position = (0.5, along) if upright else (along, 0.5)
        pixels = _array(crop_reference(picture, "centre", 40, position)[0])
        firsts.append(int(pixels[0, 0, 0]))
        lasts.append(int(pixels[-1, -1, 0]))
    assert firsts == [0, 50, 100, 200]
    assert lasts == [39, 89, 139, 239]
    # The other axis has nothing to choose.
    across = (0.0, 0.5) if upright else (0.5, 0.0)
    np.testing.assert_array_equal(
        _array(crop_reference(picture, "centre", 40, across)[0]), _array(crop_reference(picture, "centre", 40)[0])
    )


@QUICK
@given(width=LENGTHS, height=LENGTHS, side=SIDES)
def test_padding_keeps_the_aspect_and_the_middle(width: int, height: int, side: int) -> None:
    fill = (255, 0, 255)
    (square,) = crop_reference(Image.new("RGB", (width, height), (0, 200, 0)), "pad", side, fill=fill)
    assert square.size == (side, side)
    is_content = (_array(square) == (0, 200, 0)).all(axis=2)
    is_border = (_array(square) == fill).all(axis=2)
    assert (is_content | is_border).all()
    rows, columns = np.flatnonzero(is_content.any(axis=1)), np.flatnonzero(is_content.any(axis=0))
    assert is_content[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    shown = {"width": len(columns), "height": len(rows)}
    assert max(shown.values()) == side
    scale = side / max(width, height)
    assert abs(shown["width"] - max(1, width * scale)) <= 0.5
    assert abs(shown["height"] - max(1, height * scale)) <= 0.5
    for found in (rows, columns):
        assert abs(found[0] - (side - 1 - found[-1])) <= 1


def test_padding_reads_as_nothing() -> None:
    (square,) = crop_reference(Image.new("RGB", (90, 10), "white"), "pad", 96)
    border = _processor(96)(images=square, return_tensors="np")["pixel_values"][0][:, 0]
    assert np.abs(border).max() < 0.5 / 255 / min(CLIPImageProcessorPil.image_std) + 1e-6
    assert mean_colour(CLIPImageProcessorPil.image_mean) == CLIP_MEAN_COLOUR
    assert mean_colour((0.5, 0.5, 0.5)) == (128, 128, 128)


@QUICK
@given(width=LENGTHS, height=LENGTHS, side=SIDES)
def test_resize_shows_everything(width: int, height: int, side: int) -> None:
    picture = _random_picture(width, height)
    (square,) = crop_reference(picture, "resize", side)
    np.testing.assert_array_equal(_array(square), _array(picture.resize((side, side), Image.Resampling.BICUBIC)))


@QUICK
@given(short=st.integers(1, 60), long=st.integers(1, 250), upright=st.booleans())
def test_tiles_cover_every_pixel_evenly(short: int, long: int, upright: bool) -> None:
    """At the picture's own scale, where a pixel of a tile is one of the picture."""
    long = max(short, min(long, short * MAX_TILES))
    tiles = [_array(tile) for tile in crop_reference(_ramp(long, short, upright=upright), "tile", short)]
    assert len(tiles) == -(-long // short)
    starts = [int(tile[0, 0, 0]) for tile in tiles]
    covered = {level for tile in tiles for level in np.unique(tile).tolist()}
    assert covered == set(range(long))
    assert starts[0] == 0
    assert starts[-1] == long - short
    steps = [after - before for before, after in pairwise(starts)]
    assert all(0 < step <= short for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1


@QUICK
@given(width=st.integers(10, 150), height=st.integers(10, 150), side=SIDES)
def test_tiles_are_squares_of_the_resized_picture(width: int, height: int, side: int) -> None:
    picture = _random_picture(width, height)
    tiles = crop_reference(picture, "tile", side)
    assert all(tile.size == (side, side) for tile in tiles)
    assert len(tiles) <= -(-max(width, height) // min(width, height))
    first = crop_reference(picture, "centre", side, (0.0, 0.0))[0]
    last = crop_reference(picture, "centre", side, (1.0, 1.0))[0]
    np.testing.assert_array_equal(_array(tiles[0]), _array(first))
    np.testing.assert_array_equal(_array(tiles[-1]), _array(last))


@pytest.mark.parametrize("mode", ["pad", "resize"])
def test_a_thread_of_a_picture_is_shown_whole(mode: CropMode) -> None:
    (square,) = crop_reference(Image.new("RGB", (1, 60_000), "red"), mode, 224)
    assert square.size == (224, 224)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_crops_are_rgb(mode: str) -> None:
    for crop in CROP_MODES:
        assert {square.mode for square in crop_reference(Image.new(mode, (20, 10)), crop, 8)} == {"RGB"}


@pytest.mark.parametrize(
    ("picture", "arguments", "error", "word"),
    [
        ((10, 10), ("center", 8), RequestError, "choose one of centre, pad, resize, tile"),
        ((10, 10), ("centre", 0), RequestError, "at least 1 px"),
        ((10, 10), ("centre", 8, (0.5, 1.5)), RequestError, r"\(0.5, 1.5\) is outside \[0, 1\]"),
        ((10, 10), ("centre", 8, (float("nan"), 0.5)), RequestError, "nan"),
        ((0, 10), ("centre", 8), ImageError, "0x10 px has no pixels"),
        ((1, 60_000), ("centre", 224), ImageError, "1x60000 px .* 224x13440000 px; cut it"),
        ((10, 170), ("tile", 8), ImageError, "10x170 px takes 17 tiles, more than the 16 allowed; .* 'pad'"),
    ],
)
def test_what_cannot_be_cropped_ends_in_one_sentence(
    picture: tuple[int, int], arguments: tuple[Any, ...], error: type[NigaoeError], word: str
) -> None:
    with pytest.raises(error, match=word) as caught:
        crop_reference(Image.new("RGB", picture), *arguments)
    assert "\n" not in str(caught.value)


def _noise(
    kind: NoiseKind, strength: float, blur: float = 0.0, seed: int = 0, image: Image.Image | None = None, side: int = 64
) -> np.ndarray:
    return _array(noise_picture(kind, strength, blur, torch.Generator().manual_seed(seed), image, side))


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_depends_on_its_generator_alone(kind: NoiseKind) -> None:
    picture = _random_picture(90, 60)
    state = torch.get_rng_state()
    first = _noise(kind, 0.8, image=picture)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    np.testing.assert_array_equal(first, _noise(kind, 0.8, image=picture))
    assert (first != _noise(kind, 0.8, seed=1, image=picture)).any()


@QUICK
@given(
    kind=st.sampled_from(NOISE_KINDS),
    strength=st.floats(0, 1),
    blur=st.floats(0, 32),
    size=st.tuples(LENGTHS, LENGTHS),
    side=st.integers(1, 64),
)
def test_noise_is_a_square_rgb_picture(
    kind: NoiseKind, strength: float, blur: float, size: tuple[int, int], side: int
) -> None:
    for image in (None, _random_picture(*size)):
        picture = noise_picture(kind, strength, blur, torch.Generator().manual_seed(3), image, side)
        assert (picture.mode, picture.size) == ("RGB", (side, side))


@QUICK
@given(kind=st.sampled_from(NOISE_KINDS), size=st.tuples(LENGTHS, LENGTHS), side=SIDES)
def test_strength_zero_is_the_centre_of_the_picture(kind: NoiseKind, size: tuple[int, int], side: int) -> None:
    picture = _random_picture(*size)
    np.testing.assert_array_equal(
        _noise(kind, 0.0, image=picture, side=side), _array(crop_reference(picture, "centre", side)[0])
    )


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_more_strength_is_further_from_the_picture(kind: NoiseKind) -> None:
    picture = _random_picture(64, 64)
    away = [np.abs(_noise(kind, strength, image=picture) - _array(picture)).mean() for strength in (0, 0.1, 0.4, 1)]
    assert away == sorted(away)
    assert away[0] == 0
    assert away[-1] > 20


def test_each_kind_has_its_statistics() -> None:
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    # Three standard errors of 64 x 64 x 3 values.
    assert _noise("fade", 0.5, image=grey).std() / 255 == pytest.approx(0.5 / 12**0.5, abs=0.003)
    replaced = (_noise("dissolve", 0.3, image=grey) != 128).mean()
    assert replaced == pytest.approx(0.3 * 255 / 256, abs=0.013)
    assert _noise("gaussian", 0.1, image=grey).std() / 255 == pytest.approx(0.1, abs=0.002)
    assert _noise("fade", 1.0).mean() / 255 == pytest.approx(0.5, abs=0.008)


def test_shuffling_moves_turned_blocks() -> None:
    """A tiny noise leaves the blocks recognisable: what is far from every block, turned or not, was made up."""
    picture = _random_picture(64, 64)
    blocks = _array(picture).reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(64, 8, 8, 3)
    found = _noise("shuffle", 0.05, image=picture).reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(64, 8, 8, 3)
    stays = np.abs(found - blocks).mean(axis=(1, 2, 3)) < 20
    # round(0.05 * 64) blocks were chosen.
    assert 61 <= stays.sum() < 64
    turned = blocks[:, ::-1, ::-1]
    for block in found[~stays]:
        assert np.abs(turned - block).mean(axis=(1, 2, 3)).min() < 20


def test_blur_takes_the_contrast() -> None:
    contrasts = [_noise("fade", 1.0, blur).std() for blur in (0, 1, 4, 32)]
    assert contrasts == sorted(contrasts, reverse=True)
    assert contrasts[-1] < 0.1 * contrasts[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("plasma", 0.5, 0), "choose one of fade, dissolve, gaussian, shuffle"),
        (("fade", 1.5, 0), r"strength 1.5 is outside \[0, 1\]"),
        (("fade", float("nan"), 0), "strength nan"),
        (("fade", 0.5, -1), r"blur -1 is outside \[0, 32\] px"),
        (("fade", 0.5, 33), "blur 33"),
        (("fade", 0.5, 0, None, 0), "0 px was asked for"),
    ],
)
def test_noise_out_of_range_ends_in_one_sentence(arguments: tuple[Any, ...], word: str) -> None:
    kind, strength, blur, *rest = arguments
    with pytest.raises(RequestError, match=word) as caught:
        noise_picture(kind, strength, blur, torch.Generator(), *rest)
    assert "\n" not in str(caught.value)
