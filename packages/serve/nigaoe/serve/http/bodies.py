"""Request bodies: JSON and multipart forms, read within a bound, to plain fields and files."""

from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.types import Message

from nigaoe.serve.http.problems import Problem, invalid_field

ModelT = TypeVar("ModelT", bound=BaseModel)


async def json_body(request: Request, model: type[ModelT], max_mb: float) -> ModelT:
    """Read a JSON object.

    Raises:
        Problem: 415 for another content type, 413 for too much of it, 400 for anything else.
    """
    _require_type(request, "application/json")
    try:
        # Unlike json.loads, this refuses halves of surrogate pairs, which no tokenizer takes, and NaN.
        values = from_json(await _bounded(request, max_mb).body(), allow_inf_nan=False)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise Problem(400, "invalid_json", f"the body is not valid JSON ({reason}); mend its syntax") from None
    if not isinstance(values, dict):
        raise Problem(400, "invalid_json", f"the body is a JSON {type(values).__name__}; send an object with a prompt")
    return _validated(values, model)


async def image_form(request: Request, model: type[ModelT], max_mb: float) -> tuple[ModelT, bytes, str]:
    """Read a multipart form: its fields, and the bytes and name of its one picture, part `image` or `image[]`.

    Raises:
        Problem: As `json_body`; 400 for a mask, several pictures or none.
    """
    _require_type(request, "multipart/form-data")
    fields: dict[str, str] = {}
    files: list[UploadFile] = []
    async with _bounded(request, max_mb).form(max_files=32, max_fields=64) as form:
        for name, value in form.multi_items():
            if name in ("image", "image[]"):
                if isinstance(value, str):
                    raise Problem(
                        400, "invalid_image", "image is a text field; send it as a file, with a filename", "image"
                    )
                files.append(value)
            elif name == "mask":
                raise Problem(400, "unsupported_parameter", "mask is not supported; leave it out", "mask")
            elif name in fields or not isinstance(value, str):
                reason = "comes twice; send it once" if name in fields else "is a file; send pictures as image"
                raise Problem(400, "invalid_value", f"{name} {reason}", name)
            else:
                fields[name] = value
        if not files:
            raise Problem(400, "missing_required_parameter", "image is missing; send a picture as file", "image")
        if len(files) > 1:
            raise Problem(
                400, "unsupported_parameter", f"{len(files)} pictures are not supported; send one image", "image"
            )
        return _validated(fields, model), await files[0].read(), files[0].filename or "image"


def _require_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        message = f"content type {given or 'none'!r} is not read here; send {wanted}"
        raise Problem(415, "unsupported_media_type", message)


def _bounded(request: Request, max_mb: float) -> Request:
    """The same request, which refuses to be longer than it may; what it declares is enough to refuse it."""
    limit = int(max_mb * 1e6)
    declared = request.headers.get("content-length", "")
    too_large = Problem(
        413, "request_too_large", f"the request is larger than the {max_mb:g} MB allowed; send a smaller picture"
    )
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def _validated(values: Mapping[str, object], model: type[ModelT]) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid_field(error, model) from None
