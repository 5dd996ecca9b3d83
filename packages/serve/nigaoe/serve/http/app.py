"""The HTTP application: reads, bounds and decodes; lets a backend draw; answers like the OpenAI Images API."""

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request

from nigaoe.serve.config import ServeConfig
from nigaoe.serve.http.bodies import image_form, json_body
from nigaoe.serve.http.guard import bytes_of, order_of, read_reference
from nigaoe.serve.http.openai_schemas import (
    EditRequest,
    GenerationRequest,
    Health,
    ModelCard,
    ModelList,
    PictureData,
    PictureRequest,
    PictureResponse,
)
from nigaoe.serve.http.problems import ErrorBody, Problem, install
from nigaoe.serve.orders import Backend, Reference


def create_app(backend: Callable[[], Backend], config: ServeConfig) -> FastAPI:
    """Build the application. `backend` is asked for when first needed, inside the running server."""
    app = FastAPI(title="nigaoe", description="Image-prompt adapters for Stable Diffusion.", redoc_url=None)
    install(app)
    created = int(time.time())
    # One at a time: it bounds the memory of decoding.
    decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")

    async def decoded(data: bytes, name: str) -> Reference:
        return await asyncio.get_running_loop().run_in_executor(decoder, read_reference, data, name, config.limits)

    async def answer(request: PictureRequest, reference: Reference | None) -> PictureResponse:
        order = order_of(request, reference, config)
        try:
            async with asyncio.timeout(config.limits.request_s):
                drawn = await backend().draw(order)
        except TimeoutError:
            message = f"the pictures took longer than {config.limits.request_s:g} s; ask for fewer pictures or steps"
            raise Problem(504, "timeout", message) from None
        return PictureResponse(
            created=int(time.time()),
            data=[_data(picture, seed) for picture, seed in zip(drawn.pictures, order.seeds, strict=True)],
            output_format=order.output_format,
            size=f"{drawn.size[0]}x{drawn.size[1]}",
            base=order.base,
            adapter=order.adapter,
        )

    @app.post("/v1/images/edits", responses=_FAILURES, openapi_extra=_body_schema(EditRequest, "multipart/form-data"))
    async def edit(request: Request) -> PictureResponse:
        """Draw the person of a picture."""
        fields, data, name = await image_form(request, EditRequest, config.limits.body_mb)
        return await answer(fields, await decoded(data, name))

    @app.post(
        "/v1/images/generations",
        responses=_FAILURES,
        openapi_extra=_body_schema(GenerationRequest, "application/json"),
    )
    async def generate(request: Request) -> PictureResponse:
        """Draw from text, or with `image` from a picture."""
        fields = await json_body(request, GenerationRequest, config.limits.body_mb)
        reference = None if fields.image is None else await decoded(bytes_of(fields.image), "image")
        return await answer(fields, reference)

    @app.get("/v1/models")
    async def models() -> ModelList:
        """List bases and adapters; the first of each is the default."""
        bases = [ModelCard(id=name, created=created, kind="base") for name in config.bases]
        adapters = [ModelCard(id=name, created=created, kind="adapter") for name in config.adapters]
        return ModelList(data=bases + adapters)

    @app.get("/healthz", responses={503: {"model": ErrorBody}})
    async def healthz() -> Health:
        """Ask an engine whether it steps."""
        return await _health(backend())

    return app


def _data(picture: bytes, seed: int) -> PictureData:
    return PictureData(b64_json=base64.b64encode(picture).decode("ascii"), seed=seed)


async def _health(backend: Backend) -> Health:
    try:
        async with asyncio.timeout(5):
            stats = await backend.stats()
    except Problem as problem:
        if problem.code == "overloaded":
            return Health(status="busy")
        raise
    except TimeoutError:
        return Health(status="busy")
    return Health(
        status="ok",
        active_rows=stats.active_rows,
        pending_row_steps=stats.pending_row_steps,
        unet_calls=stats.unet_calls,
    )


_FAILURES: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 404, 413, 415, 500, 503, 504)
}


def _body_schema(model: type[PictureRequest], media_type: str) -> dict[str, Any]:
    # The bodies are read by hand, so that every mistake is answered alike; the documentation is told here.
    schema = model.model_json_schema()
    if media_type == "multipart/form-data":
        schema["properties"]["image"] = {"type": "string", "format": "binary"}
        schema["required"] = [*schema.get("required", []), "image"]
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
