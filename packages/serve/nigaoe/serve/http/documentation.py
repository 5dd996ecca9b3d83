"""The OpenAPI document, true for bodies that are read by hand too.

They are read by hand so that every mistake is answered alike and nothing is read before it is bounded.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from nigaoe.serve.http.problems import ErrorBody

_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}


def body_of(model: type[BaseModel], media_type: str, files: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a route says of its body; `files`: parts of a form that are pictures."""
    schema: dict[str, Any] = {"$ref": _REF.format(model=model.__name__)}
    if files:
        parts = {name: {"type": "array", "items": _BINARY} if name.endswith("[]") else _BINARY for name in files}
        schema = {"allOf": [schema, {"type": "object", "properties": parts}]}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def success_of(answer: type[BaseModel], *events: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a route answers: a model, or a stream of events."""
    listed = ", ".join(f"`{event.__name__}`" for event in events)
    description = "The pictures."
    content: dict[str, Any] = {}
    if events:
        description += f" With `stream`: server-sent events whose data is JSON, {listed} or `ErrorBody`."
        names = [*(event.__name__ for event in events), ErrorBody.__name__]
        told = {"oneOf": [{"$ref": _REF.format(model=name)} for name in names]}
        data = {"type": "string", "contentMediaType": "application/json", "contentSchema": told}
        # As OpenAPI 3.2 describes streams, and FastAPI its own.
        content["text/event-stream"] = {
            "itemSchema": {
                "type": "object",
                "properties": {"event": {"type": "string"}, "data": data},
                "required": ["event", "data"],
            }
        }
    return {200: {"model": answer, "description": description, "content": content}}


def describe(app: FastAPI, bodies: Sequence[type[BaseModel]], answers: Sequence[type[BaseModel]]) -> None:
    """Let an application publish the schemas of what its routes read and write by hand."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, bodies, answers)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, bodies: Sequence[type[BaseModel]], answers: Sequence[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for operations in document["paths"].values():
        for operation in operations.values():
            # What FastAPI would answer to a wrong parameter has our own shape and number.
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in bodies]
    shown: list[type[BaseModel]] = [*answers, ErrorBody]
    wanted += [(model, "serialization") for model in shown]
    _, schemas = models_json_schema(wanted, ref_template=_REF)
    components = document.setdefault("components", {})
    known = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    known |= schemas.get("$defs", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    # Where there are no keys, none is needed.
    document["security"] = [{"key": []}, {}]
    return document
