"""Pictures from outside: read safely, always RGB, always upright."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from nigaoe.core.errors import ImageError

MAX_PIXELS = 64_000_000
CODEC = "codec"
"""Key of a read picture's `info` under which its file's format stands, as Pillow calls it."""


def read_image(source: Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one picture to RGB, turned as its EXIF says, transparency over white.

    The header is checked before any pixel is decoded, so a small file cannot claim the memory of a large one.

    Raises:
        ImageError: Missing, not a picture, too large or truncated.
    """
    return read_picture(source, name, max_pixels, then=to_rgb)


def read_picture(
    source: Path | bytes,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
    then: Callable[[Image.Image], Image.Image] = Image.Image.copy,
) -> Image.Image:
    """As `read_image`, in whatever mode it has; `formats`: the only ones of Pillow that are tried.

    Raises:
        ImageError: Missing, not a picture, too large or truncated.
    """
    with _opened(source, name, max_pixels, formats) as image:
        image.load()
        read = then(ImageOps.exif_transpose(image))
        read.info[CODEC] = image.format
        return read


def require_picture(path: Path, max_pixels: int = MAX_PIXELS) -> None:
    """Look at a file without decoding it: its header, and where its format has some, its checksums.

    Raises:
        ImageError: Missing, not a picture, too large, or, of a PNG, truncated.
    """
    with _opened(path, None, max_pixels, None) as image:
        image.verify()


@contextmanager
def _opened(
    source: Path | bytes, name: str | None, max_pixels: int, formats: tuple[str, ...] | None
) -> Iterator[ImageFile]:
    name = name or (str(source) if isinstance(source, Path) else "the image")
    if isinstance(source, Path) and not source.is_file():
        raise ImageError(f"image file {name!r} does not exist; mend the path")
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(name, width * height, max_pixels)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own guard, from 179 million pixels on, and from 89 where warnings are errors; it tells the number in
        # its message only.
        claimed = next((int(word.strip("(")) for word in str(error).split() if word.strip("(").isdigit()), 0)
        raise _too_large(name, claimed, max_pixels) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name!r} is not a picture; give a JPEG, PNG or WebP file") from None
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name!r} is damaged or truncated ({error}); replace the file") from None


def _too_large(name: str, pixels: int, max_pixels: int) -> ImageError:
    millions = f"{pixels / 1e6:.0f} million pixels, more than the {max_pixels / 1e6:g} million allowed"
    return ImageError(f"{name!r} has {millions}; make it smaller")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16 bits scaled down, transparency over white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16-bit grey spans 0..65535, whatever this picture's own maximum is.
        pixels = np.asarray(image, np.float32)
        scale = 1.0 if image.mode == "F" else 1 / 257
        image = Image.fromarray((pixels * scale).round().clip(0, 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
