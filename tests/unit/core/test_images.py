"""Pictures go in one right way, or are refused by name."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.errors import ImageError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.images import CODEC, read_image, require_picture
from nigaoe.core.pixels import ImageLike, as_pil


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def _saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"this is no picture", "not a picture"),
        (b"", "not a picture"),
        (_saved("JPEG")[:900], "truncated"),
        (_png_header(30_000, 30_000), "900 million pixels"),
    ],
)
def test_bad_pictures_end_in_one_sentence(data: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "portrait.jpg"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ImageError, match=word) as caught:
            read_image(source, "portrait.jpg")
        assert "portrait.jpg" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("look", [read_image, require_picture])
def test_a_missing_file_is_named(look: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nobody.png"):
        look(tmp_path / "nobody.png")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"this is no picture", "not a picture"),
        (_png_header(30_000, 30_000), "900 million"),
        (_saved("PNG")[:-40], "damaged"),
    ],
)
def test_a_look_at_a_file_tells_what_no_decoder_is_needed_for(data: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "portrait.png").write_bytes(data)
    with pytest.raises(ImageError, match=word):
        require_picture(tmp_path / "portrait.png")
    (tmp_path / "portrait.png").write_bytes(_saved("PNG"))
    require_picture(tmp_path / "portrait.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (8, 6))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "F") else "a.png")
    image.save(path)
    assert read_image(path).mode == "RGB"


@pytest.mark.parametrize(("mode", "codec"), [("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("L", "JPEG")])
def test_a_picture_remembers_its_codec(mode: str, codec: str, tmp_path: Path) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "portrait.jpg", codec)
    assert read_image(tmp_path / "portrait.jpg").info[CODEC] == codec


def test_transparency_lies_over_white_and_exif_is_obeyed(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(read_image(tmp_path / "clear.png")).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 8)


def test_the_same_picture_in_any_form_has_the_same_embedding(encoder: ImageEncoder) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    forms: list[ImageLike] = [Image.fromarray(pixels), pixels, chw, chw.float() / 255, (chw.double() / 255)]
    embeds = torch.cat([encoder.encode([form]) for form in forms])
    assert (embeds - embeds[:1]).abs().max() == 0
    assert embeds.std() > 0


def test_white_and_black_are_far_apart(encoder: ImageEncoder) -> None:
    white, black = encoder.encode([Image.new("RGB", (96, 96), c) for c in ((255,) * 3, (0,) * 3)])
    assert torch.cosine_similarity(white, black, dim=0) < 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        torch.full((3, 8, 8), 200.0),
        torch.full((3, 8, 8), -0.5),
        torch.full((3, 8, 8), float("nan")),
        torch.zeros(8, 8),
        torch.zeros(5, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.int64),
    ],
)
def test_other_ranges_and_shapes_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ImageError):
        as_pil(wrong)
