"""Pictures in rows and columns."""

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.pages import data_uri
from nigaoe.core.picture_grid import picture_grid

TILE, GAP, MARGIN = 100, 8, 16


def _pixels(grid: Image.Image) -> np.ndarray:
    return np.asarray(grid.convert("RGB"), np.int64)


def test_middle_squares_stand_in_their_rows_and_columns() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste(Image.new("RGB", (100, 100), "blue"), (100, 0))
    green = Image.new("RGB", (10, 20), "lime")
    pixels = _pixels(picture_grid(["a", "b"], [[wide, green], [green, wide]], tile_px=TILE))
    assert pixels.shape[1] == 2 * MARGIN + 2 * TILE + GAP
    left, right = MARGIN + TILE // 2, MARGIN + TILE + GAP + TILE // 2
    lower, upper = pixels.shape[0] - MARGIN - TILE // 2, pixels.shape[0] - MARGIN - TILE - GAP - TILE // 2
    blue, lime = [0, 0, 255], [0, 255, 0]
    assert [pixels[y, x].tolist() for y in (upper, lower) for x in (left, right)] == [blue, lime, lime, blue]
    assert pixels[upper, MARGIN].tolist() == blue, "the sides of the wide one are cut off"


@pytest.mark.parametrize("name", ["short.jpg", "a/very/long/path/to/some/picture/of/somebody/whose/name/is/long.jpg"])
def test_names_stay_under_their_picture(name: str) -> None:
    black = Image.new("RGB", (10, 10), "black")
    with_name, without = (
        _pixels(picture_grid(["title", "title"], [[black, black]], names, tile_px=TILE)) for names in ([name], None)
    )
    below = with_name[without.shape[0] - MARGIN :]
    is_inked = np.any(np.all(below < 200, axis=2), axis=0)
    assert is_inked[MARGIN : MARGIN + TILE].any()
    assert not is_inked[MARGIN + TILE :].any()


def test_pages_hold_pictures_as_they_are() -> None:
    assert data_uri(b"\x89PNG\r\n") == "data:image/png;base64,iVBORw0K"
    assert data_uri(b"RIFF1234WEBP").startswith("data:image/webp;base64,")
