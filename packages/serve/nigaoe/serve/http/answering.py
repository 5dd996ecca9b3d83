"""From a native request to its answer, at once or as events; both APIs answer through here."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from nigaoe.serve.http.drawing import drawn
from nigaoe.serve.http.native import native_answer
from nigaoe.serve.http.native_schemas import GenerateResponse, PartialEvent, ProgressEvent
from nigaoe.serve.http.sse import Tell, Told
from nigaoe.serve.orders import Drawn, Order, Partial, Progress
from nigaoe.serve.services import Services

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


async def answered(request: Request, services: Services, order: Order, *, by_url: bool) -> GenerateResponse:
    """Draw an order and answer it; `by_url`: its pictures are stored and their addresses told.

    Raises:
        Problem: As `drawn`.
    """
    result = await drawn(services, order)
    urls = await _stored(request, services, order, result) if by_url else None
    return native_answer(order, result, urls)


def native_tell(order: Order) -> Tell:
    """What the stream of `/v1/generate` says."""

    def tell(event: Told) -> Iterable[Mapping[str, Any]]:
        match event:
            case Progress():
                yield ProgressEvent(step=event.step, steps=event.steps).model_dump()
            case Partial():
                yield PartialEvent(
                    b64_json=encoded(event.picture), image_index=event.place, partial_image_index=event.index
                ).model_dump()
            case Drawn():
                yield native_answer(order, event).model_dump(exclude_none=True)

    return tell


def encoded(picture: bytes) -> str:
    """As base64."""
    return base64.b64encode(picture).decode("ascii")


def json_answer(body: GenerateResponse | Any) -> Response:
    """A model as JSON, without what is left out."""
    return Response(body.model_dump_json(exclude_none=True), media_type="application/json")


async def _stored(request: Request, services: Services, order: Order, result: Drawn) -> Sequence[str]:
    media_type = MEDIA_TYPES[order.output_format]
    ids = [await services.objects.results.put(picture, media_type) for picture in result.pictures]
    return [f"{request.base_url}v1/files/{name}" for name in ids]
