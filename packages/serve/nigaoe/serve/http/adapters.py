"""`/v1/adapters`: those that there are, and new ones from whoever may manage them."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from nigaoe.core.errors import DataError, NigaoeError
from nigaoe.serve.cards import AdapterCard
from nigaoe.serve.catalog import NoRegistry, TakenName, UnknownAdapter
from nigaoe.serve.http.access import require_manager
from nigaoe.serve.http.problems import FAILURES, ErrorBody, Problem, invalid_value
from nigaoe.serve.http.uploads import spooled
from nigaoe.serve.services import Services

_FAILURES: dict[int | str, dict[str, Any]] = FAILURES | {409: {"model": ErrorBody}}
_BODY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_MOST_AT_ONCE = 2
"""Uploads: each may fill a good part of a disk."""


class AdapterList(BaseModel):
    """`GET /v1/adapters`."""

    object: Literal["list"] = "list"
    data: list[AdapterCard]


class DeletedAdapter(BaseModel):
    """`DELETE /v1/adapters/{name}`."""

    object: Literal["adapter"] = "adapter"
    name: str
    deleted: Literal[True] = True


def adapter_routes(services: Services) -> APIRouter:
    """The routes of adapters."""
    router = APIRouter(tags=["adapters"])
    catalog, limits = services.catalog, services.config.limits
    uploading = 0

    @router.get("/v1/adapters", responses=_FAILURES)
    async def adapters() -> AdapterList:
        """List the adapters that can be asked for now."""
        try:
            return AdapterList(data=await catalog.adapters())
        except NigaoeError as error:
            raise _problem(error) from None

    @router.get("/v1/adapters/{name}", responses=_FAILURES)
    async def adapter(name: str) -> AdapterCard:
        """Describe one adapter."""
        try:
            return await catalog.card(name)
        except NigaoeError as error:
            raise _problem(error) from None

    @router.put(
        "/v1/adapters/{name}",
        status_code=201,
        responses=_FAILURES,
        openapi_extra={"requestBody": {"required": True, "content": _BODY}},
    )
    async def upload(name: str, request: Request, variant: str | None = None) -> AdapterCard:
        """Upload a safetensors file, or replace the one of this name; it is visible once it is whole and checked.

        `variant` says what it is where its keys leave a doubt, as those of FaceID-Plus and FaceID-Plus v2.
        """
        nonlocal uploading
        require_manager(request)
        if uploading >= _MOST_AT_ONCE:
            raise Problem(429, "overloaded", "other adapters are being uploaded; try again soon", retry_after_s=5)
        uploading += 1
        try:
            async with spooled(request, limits, limits.adapter_mb) as file:
                return await catalog.upload(name, file, variant)
        except NigaoeError as error:
            raise _problem(error) from None
        finally:
            uploading -= 1

    @router.delete("/v1/adapters/{name}", responses=_FAILURES)
    async def delete(name: str, request: Request) -> DeletedAdapter:
        """Remove an adapter: nobody finds it any more, and whoever is drawing with it goes on to the end."""
        require_manager(request)
        try:
            await catalog.delete(name)
        except NigaoeError as error:
            raise _problem(error) from None
        return DeletedAdapter(name=name)

    return router


def _problem(error: NigaoeError) -> Problem:
    match error:
        case UnknownAdapter():
            return Problem(404, "model_not_found", str(error), "name")
        case TakenName():
            return Problem(409, "name_taken", str(error), "name")
        case NoRegistry():
            return Problem(400, "no_registry", str(error))
        case DataError():
            return Problem(503, "storage_unavailable", str(error), retry_after_s=5)
    return invalid_value("adapter", str(error))
