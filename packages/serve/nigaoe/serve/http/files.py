"""`/v1/files/{id}`: pictures that were kept to be fetched by address."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from nigaoe.core.errors import DataError
from nigaoe.serve.http.problems import FAILURES, Problem
from nigaoe.serve.services import Services
from nigaoe.serve.stores.ids import UnknownObject
from nigaoe.serve.stores.objects import MEDIA_TYPES

_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
    }
}


def file_routes(services: Services) -> APIRouter:
    """The route of files. It needs no key: names cannot be guessed."""
    router = APIRouter(tags=["files"])

    @router.get("/v1/files/{name}", response_class=Response, responses=FAILURES | _PICTURE)
    async def file(name: str) -> Response:
        """Fetch a picture."""
        try:
            content, media_type = await services.objects.results.get(name)
        except UnknownObject as error:
            raise Problem(404, "file_not_found", str(error), "name") from None
        except DataError as error:
            raise Problem(503, "storage_unavailable", str(error), retry_after_s=5) from None
        kept_s = int(services.config.storage.results_hours * 3600)
        headers = {
            "Content-Disposition": f'inline; filename="{name}.{name.partition("_")[0]}"',
            "Cache-Control": f"private, max-age={kept_s}, immutable",
        }
        return Response(content, media_type=media_type, headers=headers)

    return router
