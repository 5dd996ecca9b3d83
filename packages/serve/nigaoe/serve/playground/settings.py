"""What the fields of the page hold, and the same with one of them varied, for pictures side by side."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nigaoe.core.errors import ConfigError

MOST_AT_ONCE = 8
"""Requests of one comparison."""


@dataclass(frozen=True)
class Settings:
    """One request; what is None is left to the server."""

    prompt: str
    seed: int
    face: Path | None = None
    negative_prompt: str = ""
    base: str | None = None
    adapter: str | None = None
    scale: float = 1.0
    n: int = 1
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    size: str | None = None

    def fields(self) -> dict[str, Any]:
        """What both APIs call the same."""
        optional = {
            "negative_prompt": self.negative_prompt or None,
            "base": self.base,
            "n": self.n if self.n > 1 else None,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "size": self.size,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"prompt": self.prompt, "seed": self.seed} | given

    def body(self) -> dict[str, Any]:
        """Of `POST /v1/generate`."""
        if self.face is None:
            return self.fields()
        face = base64.b64encode(self.face.read_bytes()).decode("ascii")
        return self.fields() | {"image_prompts": [{"adapter": self.adapter, "images": [face], "scale": self.scale}]}


_KINDS: Mapping[Callable[[str], Any], str] = MappingProxyType({int: "a whole number", float: "a number"})
VARIED: Mapping[str, tuple[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "scale": ("scale", float),
        "base": ("base", str),
        "adapter": ("adapter", str),
        "steps": ("steps", int),
        "guidance": ("guidance_scale", float),
        "sampler": ("sampler", str),
        "seed": ("seed", int),
    }
)
"""What a comparison may vary: the field of `Settings`, and how what was typed becomes its value."""


def parsed(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    """A value that was typed.

    Raises:
        ConfigError: It is not of that kind.
    """
    try:
        return parse(text.strip())
    except ValueError:
        raise ConfigError(f"{name} {text!r} is not {_KINDS[parse]}; write one, or nothing") from None


def varied(settings: Settings, what: str | None, over: Sequence[str]) -> list[tuple[str, Settings]]:
    """Settings that differ in one field, each with what it says of itself.

    Raises:
        ConfigError: A value is not one of that field, or there are too many.
    """
    if what is None or not over:
        return [("", settings)]
    if len(over) > MOST_AT_ONCE:
        raise ConfigError(f"{len(over)} values of {what} are too many side by side; give at most {MOST_AT_ONCE}")
    field, parse = VARIED[what]
    return [(f"{what} {text}", replace(settings, **{field: parsed(what, text, parse)})) for text in over]
