"""Uploads to pixels: allow-listed by their first bytes, bounded before they are decoded, decoded on few threads."""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import numpy as np
from PIL import Image, ImageOps
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from nigaoe.core.errors import ImageError
from nigaoe.core.images import read_picture, to_rgb
from nigaoe.serve.config import Limits
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Picture
from nigaoe.serve.services import Services

ResultT = TypeVar("ResultT")

_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,", re.ASCII)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MOST_JPEG_SCANS = 64
"""Each is a pass over all pixels; encoders write some ten of a progressive picture."""


def bytes_of(value: object) -> bytes:
    """Base64 or a data URL to the bytes it stands for; bytes as they are.

    Raises:
        ValueError: Neither of them.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        prefix = _DATA_URL.match(value)
        try:
            return base64.b64decode(value[prefix.end() :] if prefix else value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise ValueError("it is neither base64 nor a data URL; encode the file's bytes")


ImageBytes = Annotated[
    bytes,
    BeforeValidator(bytes_of),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "contentEncoding": "base64", "description": "A JPEG, PNG or WebP as base64 or data URL."}
    ),
]
"""A picture's file: base64 or a data URL in JSON, bytes in a form."""


def digest_of(data: bytes) -> str:
    """How a picture is called where it is told of."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def decoded(services: Services, read: Callable[[], ResultT]) -> ResultT:
    """Run on the threads for decoding."""
    return await asyncio.get_running_loop().run_in_executor(services.decoding, read)


def read_upload(data: bytes, name: str, limits: Limits) -> Picture:
    """Decode a picture to RGB, upright.

    Raises:
        Problem: Not a JPEG, PNG or WebP; damaged, truncated, too large or too thin.
    """
    return _picture(data, name, limits, to_rgb)


def read_mask(data: bytes, name: str, limits: Limits, *, clear_is_white: bool = False) -> Picture:
    """Decode a mask to grey. `clear_is_white`: OpenAI's rule, by which the transparent parts are those to be drawn.

    Raises:
        Problem: As `read_upload`; transparency where there is no rule for it.
    """

    def grey(image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return to_rgb(image).convert("L")
        if not clear_is_white:
            raise ImageError(
                f"{name!r} has transparency, which is used both ways; give a grey picture, white where to draw"
            )
        return ImageOps.invert(image.convert("RGBA").getchannel("A"))

    return _picture(data, name, limits, grey)


def fitted(picture: Picture, size: tuple[int, int]) -> Picture:
    """Of that width and height: the middle of it, scaled."""
    image = Image.fromarray(picture.pixels)
    if image.size == size:
        return picture
    return Picture(np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC)))


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height, px."""
    height, width = picture.pixels.shape[:2]
    return width, height


def _picture(data: bytes, name: str, limits: Limits, then: Callable[[Image.Image], Image.Image]) -> Picture:
    try:
        image = read_picture(data, name, limits.image_pixels, (_format(data, name, limits),), then)
    except ImageError as error:
        raise _invalid(str(error), name) from None
    if max(image.size) > limits.image_aspect_ratio * min(image.size):
        shape, allowed = f"{image.width} x {image.height}", f"{limits.image_aspect_ratio:g} : 1"
        raise _invalid(f"{name!r} is {shape} pixels, thinner than the {allowed} allowed; crop it", name)
    return Picture(np.asarray(image))


def _format(data: bytes, name: str, limits: Limits) -> str:
    """Pillow's name of the format, by its first bytes: Pillow reads formats that run other programs."""
    if data.startswith(_JPEG):
        if data.count(b"\xff\xda") > _MOST_JPEG_SCANS:
            raise _invalid(f"{name!r} has more than {_MOST_JPEG_SCANS} scans; save it as a baseline JPEG", name)
        return "JPEG"
    if data.startswith(_PNG):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _require_small_canvas(data, name, limits)
        return "WEBP"
    raise _invalid(f"{name!r} is not a JPEG, PNG or WebP picture; send one of these", name)


def _require_small_canvas(data: bytes, name: str, limits: Limits) -> None:
    # Pillow makes room for the canvas of a WebP with VP8X, 8 bytes a pixel, when it is opened, before it tells a size.
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
        if width * height > limits.image_pixels:
            millions = f"{width * height / 1e6:.0f} million pixels, more than the {limits.image_pixels / 1e6:g} million"
            raise _invalid(f"{name!r} has {millions} allowed; make it smaller", name)


def _invalid(message: str, name: str) -> Problem:
    return Problem(400, "invalid_image", message, name)
