import base64
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.errors import ImageError
from nigaoe.serve.config import Limits, ServeConfig
from nigaoe.serve.http.guard import bytes_of, order_of, read_reference
from nigaoe.serve.http.openai_schemas import PictureRequest
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Reference

CONFIG = ServeConfig.model_validate(
    {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"a": "a.bin", "b": "b.bin"},
    }
)
REFERENCE = Reference(np.zeros((8, 8, 3), np.uint8))


def encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(buffer, kind)
    return buffer.getvalue()


def test_defaults_fill_in_what_a_request_leaves_out() -> None:
    order = order_of(PictureRequest(prompt="p", seed=5, n=3), REFERENCE, CONFIG)
    assert (order.base, order.adapter, order.adapter_scale) == ("toy/anime", "a", 1.0)
    assert (order.steps, order.guidance_scale, order.size) == (25, 7.5, None)
    assert order.seeds == (5, 6, 7)


def test_random_seeds_differ_between_requests() -> None:
    request = PictureRequest(prompt="p")
    assert len({order_of(request, None, CONFIG).seeds for _ in range(4)}) > 1


def test_model_names_a_base_or_an_adapter() -> None:
    assert order_of(PictureRequest(prompt="p", model="toy/photo"), REFERENCE, CONFIG).base == "toy/photo"
    order = order_of(PictureRequest(prompt="p", model="b", base="toy/photo", size="64x32"), REFERENCE, CONFIG)
    assert (order.base, order.adapter, order.size) == ("toy/photo", "b", (64, 32))


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"n": 0}, 400, "n"),
        ({"n": 11}, 400, "n"),
        ({"steps": 201}, 400, "steps"),
        ({"steps": 0}, 400, "steps"),
        ({"guidance_scale": 31}, 400, "guidance_scale"),
        ({"adapter_scale": -0.1}, 400, "adapter_scale"),
        ({"size": "huge"}, 400, "size"),
        ({"size": "2048x64"}, 400, "size"),
        ({"size": "\u0663x64"}, 400, "size"),
        ({"prompt": "p" * 8001}, 400, "prompt"),
        ({"response_format": "url"}, 400, "response_format"),
        ({"stream": True}, 400, "stream"),
        ({"partial_images": 2}, 400, "partial_images"),
        ({"model": "dall-e-3"}, 404, "model"),
        ({"base": "a"}, 404, "base"),
        ({"adapter": "c"}, 404, "adapter"),
        ({"model": "a", "adapter": "b"}, 400, "adapter"),
    ],
)
def test_out_of_bounds_is_named(change: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(Problem) as caught:
        order_of(PictureRequest.model_validate({"prompt": "p"} | change), REFERENCE, CONFIG)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert param in caught.value.message


def test_an_adapter_without_a_picture_is_refused() -> None:
    with pytest.raises(Problem, match="adapter needs a picture"):
        order_of(PictureRequest(prompt="p", adapter="a"), None, CONFIG)
    with pytest.raises(Problem, match="adapter_scale needs a picture"):
        order_of(PictureRequest(prompt="p", adapter_scale=0.5), None, CONFIG)


def test_a_picture_without_any_adapter_is_refused() -> None:
    with pytest.raises(Problem, match="this server has none"):
        order_of(PictureRequest(prompt="p"), REFERENCE, ServeConfig(bases=["toy/anime"]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_decoded(kind: str) -> None:
    reference = read_reference(encoded((20, 12), kind), "face", Limits())
    assert reference.pixels.shape == (12, 20, 3)
    assert reference.pixels.dtype == np.uint8
    assert np.abs(reference.pixels.astype(int) - [200, 100, 50]).max() <= 4


def test_a_text_file_is_not_a_picture() -> None:
    with pytest.raises(Problem, match=r"'notes.txt' is not a JPEG, PNG or WebP"):
        read_reference(b"hello\n" * 100, "notes.txt", Limits())


def test_formats_that_run_programs_are_not_read() -> None:
    with pytest.raises(Problem, match="is not a JPEG"):
        read_reference(encoded((20, 20), "EPS"), "x.eps", Limits())


def test_a_truncated_picture_is_refused() -> None:
    whole = encoded((200, 200), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        read_reference(whole[: len(whole) // 2], "half.jpg", Limits())


def test_a_header_cannot_claim_memory() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="900 million"):
            read_reference(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "bomb.png", Limits())
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_thin_strip_is_refused() -> None:
    with pytest.raises(Problem, match="thinner than"):
        read_reference(encoded((2000, 2)), "strip.png", Limits())


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_and_data_urls_are_read(prefix: str) -> None:
    assert bytes_of(prefix + base64.b64encode(b"\x00\xffpicture").decode()) == b"\x00\xffpicture"


@pytest.mark.parametrize("image", ["https://example.org/face.png", "abc", "\u00e9"])
def test_other_strings_are_refused(image: str) -> None:
    with pytest.raises(Problem, match="neither base64 nor a data URL"):
        bytes_of(image)
