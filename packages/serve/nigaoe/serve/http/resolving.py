"""Defaults, presets and limits: what a request leaves open is filled in, and what goes too far is refused."""

import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from nigaoe.serve.config import Limits, Preset, ServeConfig
from nigaoe.serve.http.native_schemas import GenerateRequest
from nigaoe.serve.http.problems import Problem, invalid_value, unknown_name
from nigaoe.serve.orders import Sampler

Number = TypeVar("Number", int, float)

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)

QUALITIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"standard": ("medium",), "hd": ("high",), "xhigh": ("high",), "max": ("xhigh", "high")}
)
"""OpenAI's words, and which presets stand in where a server has none of that name."""


def preset_of(quality: str | None, config: ServeConfig) -> Preset:
    """What a word of `quality` stands for; none, `auto` too, is the server's defaults.

    Raises:
        Problem: 400 for a word that stands for nothing.
    """
    defaults, presets = config.defaults, config.defaults.quality
    if quality in (None, "auto") and "auto" not in presets:
        return Preset(steps=defaults.steps, sampler=defaults.sampler, guidance_scale=defaults.guidance_scale)
    word = quality or "auto"
    for name in (word, *QUALITIES.get(word, ())):
        if name in presets:
            return presets[name]
    known = ", ".join(["auto", *presets])
    raise invalid_value("quality", f"quality {word[:40]!r} is not known here; choose one of {known}")


def steps_of(request: GenerateRequest, config: ServeConfig) -> tuple[int, float, Sampler]:
    """Steps, guidance and sampler: the request's own, its preset's or the defaults.

    Raises:
        Problem: 400 for a value out of bounds.
    """
    preset, limits = preset_of(request.quality, config), config.limits
    guidance = config.defaults.guidance_scale if preset.guidance_scale is None else preset.guidance_scale
    return (
        within("steps", request.steps or preset.steps, 1, limits.steps),
        within(
            "guidance_scale",
            guidance if request.guidance_scale is None else request.guidance_scale,
            0.0,
            limits.guidance_scale,
        ),
        request.sampler or preset.sampler,
    )


def seeds_of(request: GenerateRequest, limits: Limits) -> tuple[int, ...]:
    """One seed a picture.

    Raises:
        Problem: 400 for too many, or for `seeds` that `n` or `seed` contradict.
    """
    if request.seeds is not None:
        if request.seed is not None:
            raise invalid_value("seed", "seed and seeds were both given; send one of them")
        if request.n not in (None, len(request.seeds)):
            raise invalid_value("n", f"n is {request.n} and there are {len(request.seeds)} seeds; leave n out")
        within("n", len(request.seeds), 1, limits.n)
        return tuple(request.seeds)
    n = within("n", 1 if request.n is None else request.n, 1, limits.n)
    seed = secrets.randbelow(2**32) if request.seed is None else request.seed
    return tuple(range(seed, seed + n))


def base_of(name: str | None, config: ServeConfig) -> str:
    """The name of a base.

    Raises:
        Problem: 404.
    """
    if name is not None and name not in config.bases:
        raise unknown_name("base", name, config.bases)
    return name or config.bases[0]


def size_of_text(size: str | None, limits: Limits) -> tuple[int, int] | None:
    """Width and height; None where that is left open.

    Raises:
        Problem: 400 for another form, or beyond the limits.
    """
    if size is None or size == "auto":
        return None
    match = _SIZE.fullmatch(size)
    if match is None:
        raise invalid_value("size", f"size {size[:40]!r} is not of the form '512x512' or 'auto'; mend it")
    width, height = int(match[1]), int(match[2])
    if not (1 <= width <= limits.width and 1 <= height <= limits.height):
        raise invalid_value("size", f"size {size!r} is outside 1x1 to {limits.width}x{limits.height}; choose another")
    return width, height


def require_short(name: str, text: str, limits: Limits) -> None:
    """Refuse text that is too long.

    Raises:
        Problem: 400.
    """
    if len(text) > limits.prompt_characters:
        most = limits.prompt_characters
        raise invalid_value(name, f"{name} has {len(text)} characters, more than the {most} allowed; shorten it")


def within(name: str, value: Number, low: Number, high: Number) -> Number:
    """A number, if it lies in [low, high].

    Raises:
        Problem: 400.
    """
    if not low <= value <= high:
        raise invalid_value(name, f"{name} {value} is outside [{low}, {high}]; choose a value within")
    return value


def only_with(name: str, needed: str) -> Problem:
    """400 for a field that means nothing without another."""
    return invalid_value(name, f"{name} needs {needed}; send it too, or leave {name} out")
