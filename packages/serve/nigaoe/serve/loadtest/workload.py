"""What a load test asks for. The same file and seed give the same requests in the same order."""

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nigaoe.core.config import Config
from nigaoe.core.errors import ConfigError


class Closed(Config):
    """So many clients, each of which asks again as soon as it has its answer."""

    kind: Literal["closed"] = "closed"
    concurrency: int = Field(8, ge=1)


class Open(Config):
    """Requests come by chance (Poisson), however long the answers take."""

    kind: Literal["open"]
    rate_per_s: float = Field(gt=0)


class RequestKind(Config):
    """One kind of request. In texts, `{prompt}`, `{picture}` (base64) and `{seed}` are filled in anew each time."""

    name: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0)
    """How often, beside the others."""
    path: str = Field(pattern="^/")
    body: dict[str, Any] = {}
    """JSON; form fields where there are `files`."""
    files: dict[str, str] = {}
    """Form fields that are files; `{picture}` is one of `pictures`, anything else a path."""
    choices: dict[str, list[Any]] = {}
    """Keys of the body that get one of these values each time."""
    images: int = Field(1, ge=1)
    """How many an answer must have."""


class Workload(Config):
    """A load test."""

    load: Annotated[Closed | Open, Field(discriminator="kind")] = Closed()
    requests: int | None = Field(None, ge=1)
    """End after so many; or after `duration_s`, whichever comes first."""
    duration_s: float | None = Field(None, gt=0)
    warm_up: int = Field(0, ge=0)
    """Requests before it, one after the other, that count for nothing."""
    timeout_s: float = Field(600.0, gt=0)
    seed: int = 0
    prompts: list[str] = Field(["a portrait of a person"], min_length=1)
    pictures: list[Path] = []
    kinds: list[RequestKind] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.requests is None and self.duration_s is None:
            raise ValueError("neither requests nor duration_s is given, so it would never end; give one")
        names = [kind.name for kind in self.kinds]
        if len(set(names)) < len(names):
            raise ValueError(f"kinds share a name ({', '.join(names)}); rename one")
        needs = [kind.name for kind in self.kinds if "{picture}" in json.dumps([kind.body, kind.files, kind.choices])]
        if needs and not self.pictures:
            raise ValueError(f"kind {needs[0]!r} needs pictures, and there are none; list some")
        return self


@dataclass(frozen=True)
class Shot:
    """One request to send."""

    number: int
    kind: RequestKind
    body: dict[str, Any]
    files: dict[str, bytes]


def shots(workload: Workload) -> Iterator[Shot]:
    """Requests without end.

    Raises:
        ConfigError: A picture or a file cannot be read.
    """
    chance = random.Random(workload.seed)
    pictures = [_read(path) for path in workload.pictures]
    weights = [kind.weight for kind in workload.kinds]
    number = 0
    while True:
        kind = chance.choices(workload.kinds, weights)[0]
        prompt, seed = chance.choice(workload.prompts), chance.randrange(2**31)
        picture = chance.choice(pictures) if pictures else b""
        chosen = {key: chance.choice(values) for key, values in kind.choices.items()}
        body = {key: _filled(value, prompt, seed, picture) for key, value in (kind.body | chosen).items()}
        files = {key: picture if where == "{picture}" else _read(Path(where)) for key, where in kind.files.items()}
        yield Shot(number, kind, body, files)
        number += 1


def _filled(value: Any, prompt: str, seed: int, picture: bytes) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, prompt, seed, picture) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, prompt, seed, picture) for inner in value]
    if value == "{seed}":
        return seed
    if isinstance(value, str) and "{picture}" in value:
        value = value.replace("{picture}", base64.b64encode(picture).decode())
    return value.replace("{prompt}", prompt) if isinstance(value, str) else value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"picture {str(path)!r} cannot be read ({error.strerror}); give an image file") from None
