"""`/v1/embeddings/images`: pictures that are looked at once and asked for many times."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nigaoe.core.errors import DataError, NigaoeError
from nigaoe.serve.http.bodies import Upload, form_body, json_body
from nigaoe.serve.http.drawing import lost, refused, while_connected
from nigaoe.serve.http.pictures import ImageBytes
from nigaoe.serve.http.problems import FAILURES, Problem, invalid_value
from nigaoe.serve.http.prompting import upload
from nigaoe.serve.orders import EngineStoppedError, Refusal
from nigaoe.serve.services import Services
from nigaoe.serve.stores.ids import UnknownObject

_FORM = {
    "type": "object",
    "properties": {"image[]": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
    "required": ["image[]"],
}


class EmbedRequest(BaseModel):
    """Pictures of one person or thing."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[ImageBytes], Field(min_length=1)]


class EmbeddingCard(BaseModel):
    """Pictures as the encoders of this server see them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    object: Literal["image_embedding"] = "image_embedding"
    id: str
    """For `embedding` of an image prompt; whoever knows it can use it."""
    images: int
    """How many pictures it is of."""
    size_bytes: int


class DeletedEmbedding(BaseModel):
    """`DELETE /v1/embeddings/images/{id}`."""

    object: Literal["image_embedding"] = "image_embedding"
    id: str
    deleted: Literal[True] = True


def embedding_routes(services: Services) -> APIRouter:
    """The routes of embeddings."""
    router = APIRouter(tags=["embeddings"])
    schema = EmbedRequest.model_json_schema()
    body: dict[str, Any] = {
        "required": True,
        "content": {"application/json": {"schema": schema}, "multipart/form-data": {"schema": _FORM}},
    }

    async def embedded(images: list[bytes]) -> EmbeddingCard:
        most = services.config.limits.images
        if not 1 <= len(images) <= most:
            raise invalid_value("images", f"{len(images)} pictures were sent; send 1 to {most}")
        pictures = await asyncio.gather(*(upload(services, data, f"images.{i}") for i, data in enumerate(images)))
        try:
            async with asyncio.timeout(services.config.limits.request_s):
                found = await services.backend().embed(tuple(pictures))
        except TimeoutError:
            raise Problem(504, "timeout", "the pictures were not looked at in time; try again") from None
        except EngineStoppedError:
            raise lost() from None
        if isinstance(found, Refusal):
            raise refused(found)
        try:
            name = await services.objects.embeddings.put(found)
        except DataError as error:
            raise Problem(503, "storage_unavailable", str(error), retry_after_s=5) from None
        return EmbeddingCard(id=name, images=len(images), size_bytes=len(found))

    @router.post("/v1/embeddings/images", status_code=201, responses=FAILURES, openapi_extra={"requestBody": body})
    async def embed(request: Request) -> EmbeddingCard:
        """Look at pictures once; the id stands for them in image prompts, also after a restart."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            images = []
            for name, value in await form_body(request, services.config.limits):
                if name not in ("image", "image[]") or not isinstance(value, Upload):
                    raise invalid_value(name[:80], f"{name[:80]!r} is not read here; send pictures as image[] files")
                images.append(value.data)
        else:
            images = (await json_body(request, EmbedRequest, services)).images
        return await while_connected(request.receive, embedded(images))

    @router.delete("/v1/embeddings/images/{name}", responses=FAILURES)
    async def delete(name: str) -> DeletedEmbedding:
        """Forget what was seen in pictures."""
        try:
            await services.objects.embeddings.delete(name)
        except NigaoeError as error:
            if isinstance(error, UnknownObject):
                raise Problem(404, "embedding_not_found", str(error), "name") from None
            raise Problem(503, "storage_unavailable", str(error), retry_after_s=5) from None
        return DeletedEmbedding(id=name)

    return router
