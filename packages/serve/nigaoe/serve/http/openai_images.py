"""`/v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from nigaoe.serve.http.answering import answered, json_answer
from nigaoe.serve.http.bodies import form_body, json_values
from nigaoe.serve.http.documentation import body_of, success_of
from nigaoe.serve.http.drawing import while_connected
from nigaoe.serve.http.native import native_order
from nigaoe.serve.http.native_schemas import GenerateRequest
from nigaoe.serve.http.openai_answers import Stream, openai_answer, openai_tell
from nigaoe.serve.http.openai_fields import openai_model, parts_of
from nigaoe.serve.http.openai_requests import wish_of
from nigaoe.serve.http.openai_schemas import (
    CompletedEvent,
    EditRequest,
    GenerationRequest,
    PartialImageEvent,
    PictureRequest,
    PictureResponse,
    VariationRequest,
)
from nigaoe.serve.http.pictures import decoded
from nigaoe.serve.http.problems import FAILURES, invalid_value
from nigaoe.serve.http.sse import streamed
from nigaoe.serve.orders import Order
from nigaoe.serve.services import Services

_ANSWERS = FAILURES | success_of(PictureResponse, PartialImageEvent, CompletedEvent)
_FORM = "multipart/form-data"


def openai_image_routes(services: Services) -> APIRouter:
    """The routes of OpenAI's images."""
    router = APIRouter(tags=["openai"])

    async def answer(
        request: Request,
        fields: PictureRequest,
        prompt: str,
        images: Sequence[bytes],
        mask: bytes | None,
        stream: Stream = "image_edit",
    ) -> Response:
        async def ordered() -> tuple[GenerateRequest, Order]:
            wish = await wish_of(fields, prompt, images, mask, services)
            caller, request_id = request.state.caller, request.state.request_id
            order = await native_order(
                wish.request, services, caller, request_id, called=wish.called, clear_is_white=True
            )
            return wish.request, order

        async def at_once() -> Response:
            wish, order = await ordered()
            result = await answered(request, services, order, by_url=wish.response_format == "url")
            return json_answer(openai_answer(wish, order, result))

        if not fields.stream:
            return await while_connected(request.receive, at_once())
        wish, order = await while_connected(request.receive, ordered())
        return await streamed(request, services, order, openai_tell(wish, order, stream))

    @router.post(
        "/v1/images/generations", openapi_extra=body_of(GenerationRequest, "application/json"), responses=_ANSWERS
    )
    async def generations(request: Request) -> Response:
        """Draw from text, or with `image` from pictures."""
        values = await json_values(request, services)
        fields = await decoded(services, partial(openai_model, values, GenerationRequest, strict=True))
        if fields.image is not None and fields.images is not None:
            raise invalid_value("images", "image and images were both given; send one of them")
        one = fields.image
        given = fields.images or (one if isinstance(one, list) else [] if one is None else [one])
        return await answer(request, fields, fields.prompt, given, fields.mask, "image_generation")

    @router.post(
        "/v1/images/edits",
        openapi_extra=body_of(EditRequest, _FORM, ("image", "image[]", "mask")),
        responses=_ANSWERS,
    )
    async def edits(request: Request) -> Response:
        """Draw whom pictures show; with `mask` draw a part of the first picture anew."""
        parts = parts_of(await form_body(request, services.config.limits))
        fields = openai_model(parts.values, EditRequest, strict=False)
        images, mask = [image.data for image in parts.images], parts.mask
        return await answer(request, fields, fields.prompt, images, None if mask is None else mask.data)

    @router.post(
        "/v1/images/variations",
        openapi_extra=body_of(VariationRequest, _FORM, ("image",)),
        responses=_ANSWERS,
    )
    async def variations(request: Request) -> Response:
        """Draw whom a picture shows, without any text."""
        parts = parts_of(await form_body(request, services.config.limits))
        if parts.mask is not None:
            raise invalid_value("mask", "mask is not possible here; use /v1/images/edits")
        fields = openai_model(parts.values, VariationRequest, strict=False)
        return await answer(request, fields, fields.prompt or "", [image.data for image in parts.images], None)

    return router
