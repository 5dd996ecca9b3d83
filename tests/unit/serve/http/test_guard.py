import base64
import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from asked import picture_file
from nigaoe.serve.config import Limits
from nigaoe.serve.http.pictures import bytes_of, fitted, read_mask, read_upload, size_of
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Picture


def encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(buffer, kind)
    return buffer.getvalue()


def png_header(width: int, height: int, chunk: bytes = b"") -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, *([chunk] if chunk else []), b"IDAT" + zlib.compress(b"\0" * 1000), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_decoded(kind: str) -> None:
    picture = read_upload(encoded((20, 12), kind), "face", Limits())
    assert picture.pixels.shape == (12, 20, 3)
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - [200, 100, 50]).max() <= 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello\n" * 100, "'x' is not a JPEG, PNG or WebP"),
        (b"", "is not a JPEG"),
        (encoded((20, 20), "EPS"), "is not a JPEG"),
        (encoded((20, 20), "GIF"), "is not a JPEG"),
        (encoded((200, 200), "JPEG")[:900], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"II*\0" * 50, "not a picture|damaged"),
        (encoded((2000, 2)), "thinner than"),
        (encoded((20, 20), "JPEG") + b"\xff\xda" * 100, "more than 64 scans"),
        (b"RIFF\0\0\0\0WEBPVP8X" + b"\x0a\0\0\0" + b"\0" * 4 + b"\xff\x3f\0" + b"\xff\x3f\0", "268 million pixels"),
        # A chunk of text of some kilobytes that unfolds to gigabytes.
        (png_header(8, 8, b"zTXta\0\0" + zlib.compress(b"\0" * 50_000_000)), "damaged or truncated"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(Problem, match=says) as caught:
        read_upload(data, "x", Limits())
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_image", "x")


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_header_cannot_claim_memory(side: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match=f"{side**2 // 10**6} million"):
            read_upload(png_header(side, side), "bomb", Limits())
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_masks_are_grey_and_transparency_needs_a_rule() -> None:
    grey = Image.linear_gradient("L").resize((32, 16))
    buffer, clear = io.BytesIO(), io.BytesIO()
    grey.save(buffer, "PNG")
    assert np.array_equal(read_mask(buffer.getvalue(), "mask", Limits()).pixels, np.asarray(grey))
    rgba = Image.new("RGBA", (32, 16), (0, 0, 0, 255))
    rgba.paste((0, 0, 0, 0), (8, 0, 16, 16))
    rgba.save(clear, "PNG")
    with pytest.raises(Problem, match="has transparency"):
        read_mask(clear.getvalue(), "mask", Limits())
    mask = read_mask(clear.getvalue(), "mask", Limits(), clear_is_white=True).pixels
    assert (mask[:, 8:16] == 255).all()
    assert mask.sum() == 255 * 8 * 16


def test_a_picture_is_fitted_without_being_squeezed() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255
    middle = fitted(Picture(pixels), (16, 16))
    assert size_of(middle) == (16, 16)
    # The filter looks a little over the edge of what it was told to scale.
    assert middle.pixels.min() > 200


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_and_data_urls_are_read(prefix: str) -> None:
    assert bytes_of(prefix + base64.b64encode(b"\x00\xffpicture").decode()) == b"\x00\xffpicture"


@pytest.mark.parametrize("image", ["https://example.org/face.png", "abc", "\u00e9", 5, None])
def test_other_values_are_refused(image: object) -> None:
    with pytest.raises(ValueError, match="neither base64 nor a data URL"):
        bytes_of(image)


def test_mutated_pictures_are_refused_or_read() -> None:
    limits = Limits(image_pixels=100_000)
    rng = np.random.default_rng(0)
    read = 0
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = np.frombuffer(picture_file((48, 40), kind), np.uint8)
        for _ in range(400):
            changed = whole.copy()
            places = rng.integers(0, len(changed), rng.integers(1, 8))
            changed[places] = rng.integers(0, 256, len(places))
            data = changed[: rng.integers(1, len(changed) + 1)].tobytes() if rng.random() < 0.3 else changed.tobytes()
            # Whatever else is raised would be answered with 500.
            with suppress(Problem):
                assert read_upload(data, "x", limits).pixels.size <= 3 * limits.image_pixels
                read += 1
    assert read > 50
