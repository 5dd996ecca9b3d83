"""`POST /v1/generate`."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from nigaoe.serve.http.answering import answered, json_answer, native_tell
from nigaoe.serve.http.bodies import json_body
from nigaoe.serve.http.documentation import body_of, success_of
from nigaoe.serve.http.drawing import while_connected
from nigaoe.serve.http.native import native_order
from nigaoe.serve.http.native_schemas import GenerateRequest, GenerateResponse, PartialEvent, ProgressEvent
from nigaoe.serve.http.problems import FAILURES
from nigaoe.serve.http.sse import streamed
from nigaoe.serve.orders import Order
from nigaoe.serve.services import Services


def native_routes(services: Services) -> APIRouter:
    """The route of the native API."""
    router = APIRouter(tags=["native"])

    async def ordered(request: Request, body: GenerateRequest) -> Order:
        return await native_order(body, services, request.state.caller, request.state.request_id)

    async def at_once(request: Request, body: GenerateRequest) -> Response:
        order = await ordered(request, body)
        answer = await answered(request, services, order, by_url=body.response_format == "url")
        return json_answer(answer)

    @router.post(
        "/v1/generate",
        openapi_extra=body_of(GenerateRequest, "application/json"),
        responses=FAILURES | success_of(GenerateResponse, ProgressEvent, PartialEvent, GenerateResponse),
    )
    async def generate(request: Request) -> Response:
        """Draw from text, image prompts, a picture to start from, or all of them."""
        body = await json_body(request, GenerateRequest, services)
        if not body.stream:
            return await while_connected(request.receive, at_once(request, body))
        order = await while_connected(request.receive, ordered(request, body))
        return await streamed(request, services, order, native_tell(order))

    return router
