"""Request bodies: JSON and multipart forms, read within bounds of size and time, to plain values and files."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from nigaoe.serve.config import Limits
from nigaoe.serve.http.pictures import decoded
from nigaoe.serve.http.problems import Problem, invalid_field, invalid_value
from nigaoe.serve.services import Services

ModelT = TypeVar("ModelT", bound=BaseModel)

_MOST_FIELDS = 256
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Upload:
    """A file of a form."""

    data: bytes = field(repr=False)
    filename: str


@dataclass(frozen=True)
class Form:
    """A multipart form, in the order in which it came."""

    items: tuple[tuple[str, str | Upload], ...]

    def __iter__(self) -> Iterator[tuple[str, str | Upload]]:
        return iter(self.items)


async def json_values(request: Request, services: Services) -> dict[str, Any]:
    """Read a JSON object whose keys are unique.

    Raises:
        Problem: 415 for another content type, 413 for too much of it, 408 for too slow, 400 for anything else.
    """
    require_type(request, "application/json")
    body = await bounded(request, services.config.limits).body()
    values = await decoded(services, lambda: _parsed(body))
    if not isinstance(values, dict):
        raise Problem(400, "invalid_json", f"the body is a JSON {type(values).__name__}; send an object")
    return values


async def json_body(request: Request, model: type[ModelT], services: Services) -> ModelT:
    """Read a JSON object as a model; numbers must be numbers.

    Raises:
        Problem: As `json_values`; 400 for what the model refuses.
    """
    values = await json_values(request, services)
    # On a thread: the pictures in it are decoded from base64.
    return await decoded(services, lambda: validated(values, model, strict=True))


async def form_body(request: Request, limits: Limits) -> Form:
    """Read a multipart form.

    Raises:
        Problem: As `json_values`.
    """
    require_type(request, "multipart/form-data")
    reading = bounded(request, limits).form(
        max_files=limits.images + 2, max_fields=_MOST_FIELDS, max_part_size=_bytes(limits.body_mb)
    )
    try:
        async with reading as form:
            items: list[tuple[str, str | Upload]] = []
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    items.append((name, Upload(await value.read(), (value.filename or name)[:80])))
                elif _SURROGATE.search(value):
                    raise invalid_value(name, f"{name} holds half a surrogate pair, which is no character; mend it")
                else:
                    items.append((name, value))
            return Form(tuple(items))
    except HTTPException as error:
        raise Problem(400, "invalid_form", f"the form cannot be read ({error.detail}); mend it") from None


def validated(values: Mapping[str, object], model: type[ModelT], *, strict: bool) -> ModelT:
    """Values as a model.

    Raises:
        Problem: 400 for the first that it refuses.
    """
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        raise invalid_field(error, model) from None


def require_type(request: Request, wanted: str) -> None:
    """Refuse another content type.

    Raises:
        Problem: 415.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        message = f"content type {given[:60] or 'none'!r} is not read here; send {wanted}"
        raise Problem(415, "unsupported_media_type", message)


def bounded(request: Request, limits: Limits, max_mb: float | None = None, max_s: float | None = None) -> Request:
    """The same request, whose body refuses to be longer, or to take longer, than it may.

    What it declares is enough to refuse it.

    Raises:
        Problem: While it is read: 413 or 408.
    """
    max_mb, max_s = max_mb or limits.body_mb, max_s or limits.body_s
    limit, declared = _bytes(max_mb), request.headers.get("content-length", "")
    too_large = Problem(
        413, "request_too_large", f"the request is larger than the {max_mb:g} MB allowed; send smaller pictures"
    )
    # The connection is no use any more: what is left of the body would be taken for the next request.
    too_slow = Problem(
        408,
        "request_timeout",
        f"the body did not come within the {max_s:g} s allowed; send smaller pictures",
        headers={"Connection": "close"},
    )
    taken = 0
    until: float | None = None

    async def receive() -> Message:
        nonlocal taken, until
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        loop = asyncio.get_running_loop()
        until = loop.time() + max_s if until is None else until
        try:
            async with asyncio.timeout_at(until):
                message = await request.receive()
        except TimeoutError:
            raise too_slow from None
        taken += len(message.get("body", b""))
        if taken > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def _bytes(megabytes: float) -> int:
    return int(megabytes * 1e6)


def _parsed(body: bytes) -> object:
    try:
        # Unlike json.loads, this refuses halves of surrogate pairs, which no tokenizer takes, NaN and deep nesting.
        values: object = from_json(body, allow_inf_nan=False)
        json.loads(body, object_pairs_hook=_unique)
    except _TwiceError as error:
        raise invalid_value(error.key, f"{error.key} comes twice; send it once") from None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise Problem(400, "invalid_json", f"the body is not valid JSON ({reason}); mend its syntax") from None
    return values


class _TwiceError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key[:80]


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _TwiceError(key)
        seen.add(key)
