"""The border: a request becomes an order within bounds, or a problem that names what to change."""

import base64
import binascii
import re
import secrets
from typing import TypeVar

import numpy as np

from nigaoe.core.images import read_image
from nigaoe.serve.config import Limits, ServeConfig
from nigaoe.serve.http.openai_schemas import PictureRequest
from nigaoe.serve.http.problems import Problem, unknown_name
from nigaoe.serve.orders import Order, Reference

Number = TypeVar("Number", int, float)

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,", re.ASCII)


def order_of(request: PictureRequest, reference: Reference | None, config: ServeConfig) -> Order:
    """Fill in defaults, look names up and keep to the limits.

    Raises:
        Problem: 400 for a value out of bounds, 404 for an unknown name.
    """
    limits, defaults = config.limits, config.defaults
    _require_supported(request)
    base, adapter = _names(request, config)
    if reference is None and (adapter is not None or request.adapter_scale is not None):
        param = "adapter" if adapter is not None else "adapter_scale"
        raise _invalid(param, f"{param} needs a picture; send one as image, or leave {param} out")
    if reference is not None and adapter is None:
        if not config.adapters:
            raise _invalid(
                "image", "image needs an adapter and this server has none; leave it out and use /v1/images/generations"
            )
        adapter = next(iter(config.adapters))
    n = _within("n", request.n, 1, limits.n)
    seed = secrets.randbelow(2**32) if request.seed is None else request.seed
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if len(text) > limits.prompt_characters:
            raise _invalid(
                name, f"{name} has {len(text)} characters, more than the {limits.prompt_characters} allowed; shorten it"
            )
    return Order(
        base=base,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seeds=tuple(range(seed, seed + n)),
        steps=_within("steps", request.steps, 1, limits.steps, defaults.steps),
        guidance_scale=_within(
            "guidance_scale", request.guidance_scale, 0.0, limits.guidance_scale, defaults.guidance_scale
        ),
        size=_size(request.size, limits),
        adapter=adapter,
        adapter_scale=_within(
            "adapter_scale", request.adapter_scale, 0.0, limits.adapter_scale, defaults.adapter_scale
        ),
        reference=reference,
        output_format=request.output_format,
        quality=request.output_compression,
    )


def read_reference(data: bytes, name: str, limits: Limits) -> Reference:
    """Decode an upload.

    Raises:
        Problem: Not a JPEG, PNG or WebP, or a thin strip.
        ImageError: Damaged, truncated or too large.
    """
    # By its first bytes, for Pillow reads formats that run other programs.
    if not (
        data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    ):
        raise Problem(400, "invalid_image", f"{name!r} is not a JPEG, PNG or WebP picture; send one of these", "image")
    image = read_image(data, name, limits.image_pixels)
    if max(image.size) > limits.image_aspect_ratio * min(image.size):
        shape = f"{image.width} x {image.height}"
        allowed = f"{limits.image_aspect_ratio:g} : 1"
        raise Problem(
            400, "invalid_image", f"{name!r} is {shape} pixels, thinner than the {allowed} allowed; crop it", "image"
        )
    return Reference(np.asarray(image))


def bytes_of(image: str) -> bytes:
    """Base64 or a data URL to the bytes it stands for.

    Raises:
        Problem: Neither of them.
    """
    prefix = _DATA_URL.match(image)
    try:
        return base64.b64decode(image[prefix.end() :] if prefix else image, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid("image", "image is neither base64 nor a data URL; encode the file's bytes") from None


def _require_supported(request: PictureRequest) -> None:
    if request.response_format not in (None, "b64_json"):
        raise _unsupported(
            "response_format", f"response_format {request.response_format!r} is not supported; use 'b64_json'"
        )
    if request.stream or request.partial_images:
        param = "stream" if request.stream else "partial_images"
        raise _unsupported(param, f"{param} is not supported; leave it out")


def _names(request: PictureRequest, config: ServeConfig) -> tuple[str, str | None]:
    base, adapter = request.base, request.adapter
    if request.model is not None:
        if request.model in config.adapters:
            adapter = _agreed("adapter", adapter, request.model)
        elif request.model in config.bases:
            base = _agreed("base", base, request.model)
        else:
            raise unknown_name("model", request.model, [*config.bases, *config.adapters])
    if base is not None and base not in config.bases:
        raise unknown_name("base", base, config.bases)
    if adapter is not None and adapter not in config.adapters:
        raise unknown_name("adapter", adapter, list(config.adapters))
    return base or config.bases[0], adapter


def _agreed(param: str, own: str | None, model: str) -> str:
    if own not in (None, model):
        raise _invalid(param, f"{param} {own!r} and model {model!r} differ; send one of them")
    return model


def _size(size: str | None, limits: Limits) -> tuple[int, int] | None:
    if size in (None, "auto"):
        return None
    assert size is not None
    match = _SIZE.fullmatch(size)
    if match is None:
        raise _invalid("size", f"size {size[:40]!r} is not of the form '512x512' or 'auto'; mend it")
    width, height = int(match[1]), int(match[2])
    if not (1 <= width <= limits.width and 1 <= height <= limits.height):
        raise _invalid("size", f"size {size!r} is outside 1x1 to {limits.width}x{limits.height}; choose one within")
    return width, height


def _within(name: str, value: Number | None, low: Number, high: Number, default: Number | None = None) -> Number:
    value = default if value is None else value
    assert value is not None
    if not low <= value <= high:
        raise _invalid(name, f"{name} {value} is outside [{low}, {high}]; choose a value within")
    return value


def _invalid(param: str, message: str) -> Problem:
    return Problem(400, "invalid_value", message, param)


def _unsupported(param: str, message: str) -> Problem:
    return Problem(400, "unsupported_parameter", message, param)
