"""From a drawn picture to a file: the safety hook, the hidden mark, the encoding, and what the file says of itself."""

import importlib
import io
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nigaoe.core.errors import ConfigError, RequestError
from nigaoe.serve.orders import Order, OutputFormat

log = logging.getLogger(__name__)

Hook = Callable[[Image.Image], Image.Image | None]

MARKED_PIXELS = 256 * 256
"""Smaller pictures have no room for the watermark."""

_SAMPLERS = {
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "lcm": "LCM",
}
"""As AUTOMATIC1111's web UI calls them."""


class WithheldError(RequestError):
    """The safety hook let a picture not pass."""


class Finisher:
    """Makes files of pictures; for any thread."""

    def __init__(self, safety: str | None, watermark: str | None) -> None:
        """`safety`, `watermark`: as in `ServeConfig`.

        Raises:
            ConfigError: There is no such hook, or the package for the watermark is missing.
        """
        self._hook = None if safety is None else load_hook(safety)
        self._mark = None if watermark is None else _marker(watermark)
        # Hooks are models, as a rule, which one thread at a time may use.
        self._checking = threading.Lock()

    def file(self, image: Image.Image, order: Order, place: int) -> bytes:
        """One finished picture.

        Raises:
            WithheldError: The safety hook did not let it pass.
            RequestError: It is too small for the watermark.
        """
        image = self._checked(image)
        info = None if order.output_format != "png" else metadata(order, place, image.size)
        return encode(image, order.output_format, order.quality, info)

    def preview(self, image: Image.Image, order: Order) -> bytes | None:
        """A preview in the format of the picture; None: the safety hook did not let it pass.

        Raises:
            RequestError: It is too small for the watermark.
        """
        try:
            return encode(self._checked(image), order.output_format, order.quality)
        except WithheldError:
            return None

    def _checked(self, image: Image.Image) -> Image.Image:
        if self._hook is not None:
            with self._checking:
                passed = self._hook(image)
            if passed is None:
                raise WithheldError("a picture was withheld by this server's safety check; ask for something else")
            image = passed
        return image if self._mark is None else self._mark(image)


def encode(image: Image.Image, output_format: OutputFormat, quality: int, info: PngInfo | None = None) -> bytes:
    """Encode as a file."""
    buffer = io.BytesIO()
    if output_format == "png":
        # Level 1: a fifth of the time of Pillow's own choice for some percent more bytes.
        image.save(buffer, "PNG", compress_level=1, pnginfo=info)
    else:
        image.save(buffer, output_format.upper(), quality=quality)
    return buffer.getvalue()


def metadata(order: Order, place: int, size: tuple[int, int]) -> PngInfo:
    """What a PNG says of itself: `nigaoe`, the whole request as JSON, and `parameters`, as other programs read it."""
    info = PngInfo()
    if order.parameters:
        info.add_text("nigaoe", order.parameters)
    info.add_text("parameters", as_automatic1111(order, place, size))
    return info


def as_automatic1111(order: Order, place: int, size: tuple[int, int]) -> str:
    """The text that AUTOMATIC1111's web UI writes into its pictures, and most programs of this field read."""
    said = {
        "Steps": order.steps,
        "Sampler": _SAMPLERS[order.sampler],
        "CFG scale": f"{order.guidance_scale:g}",
        "Seed": order.seeds[place],
        "Size": f"{size[0]}x{size[1]}",
        "Model": json.dumps(order.base) if "," in order.base else order.base,
    }
    if order.init is not None:
        said["Denoising strength"] = f"{order.strength:g}"
    lines = [order.prompt]
    if order.negative_prompt:
        lines.append(f"Negative prompt: {order.negative_prompt}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in said.items())])


def load_hook(address: str) -> Hook:
    """A function by its address `module:function`.

    Raises:
        ConfigError: There is none.
    """
    module, _, name = address.partition(":")
    try:
        hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"safety {address!r} cannot be loaded ({error}); give 'module:function'") from None
    if not callable(hook):
        raise ConfigError(f"safety {address!r} is of type {type(hook).__name__}; give a function of one picture")
    found: Hook = hook
    return found


def _marker(text: str) -> Callable[[Image.Image], Image.Image]:
    try:
        package: Any = importlib.import_module("imwatermark")
    except ImportError:
        raise ConfigError(
            "watermark needs the package invisible-watermark, which is not installed here; "
            "install it, or leave watermark out"
        ) from None

    def mark(image: Image.Image) -> Image.Image:
        if image.width * image.height < MARKED_PIXELS:
            raise RequestError(
                f"a picture of {image.width}x{image.height} px has no room for this server's watermark; "
                f"ask for at least {MARKED_PIXELS} pixels"
            )
        # Of its own for each picture: it keeps state.
        encoder = package.WatermarkEncoder()
        encoder.set_watermark("bytes", text.encode())
        marked = encoder.encode(np.asarray(image.convert("RGB"))[:, :, ::-1], "dwtDct")
        return Image.fromarray(np.ascontiguousarray(marked[:, :, ::-1]))

    return mark
