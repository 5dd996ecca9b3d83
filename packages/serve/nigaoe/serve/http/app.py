"""The HTTP application: every route, behind what every request passes."""

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse

from nigaoe.serve.http.access import Keys, Rates
from nigaoe.serve.http.adapters import adapter_routes
from nigaoe.serve.http.documentation import describe
from nigaoe.serve.http.embeddings import embedding_routes
from nigaoe.serve.http.files import file_routes
from nigaoe.serve.http.front import Front
from nigaoe.serve.http.health import health_routes
from nigaoe.serve.http.jobs import job_routes
from nigaoe.serve.http.native_routes import native_routes
from nigaoe.serve.http.native_schemas import GenerateRequest, PartialEvent, ProgressEvent
from nigaoe.serve.http.openai_images import openai_image_routes
from nigaoe.serve.http.openai_models import openai_model_routes
from nigaoe.serve.http.openai_schemas import (
    CompletedEvent,
    EditRequest,
    GenerationRequest,
    PartialImageEvent,
    VariationRequest,
)
from nigaoe.serve.http.problems import install
from nigaoe.serve.playground.config import ROUTE_PREFIX
from nigaoe.serve.services import Services


def create_app(services: Services) -> FastAPI:
    """Build the application.

    Raises:
        ConfigError: Keys or rates that cannot be read.
    """
    access = services.config.access
    # The outermost first: a browser's question whether it may ask carries no key.
    middleware = [Middleware(Front, services, Keys(access), Rates(access))]
    if access.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=access.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
        middleware.insert(0, cors)
    app = FastAPI(
        title="nigaoe",
        description="Image-prompt adapters for Stable Diffusion.",
        redoc_url=None,
        middleware=middleware,
    )
    install(app)
    if services.config.playground:
        app.add_api_route("/", _to_the_playground, include_in_schema=False)
    for router in _routers(services):
        app.include_router(router)
    describe(
        app,
        bodies=(GenerateRequest, GenerationRequest, EditRequest, VariationRequest),
        answers=(ProgressEvent, PartialEvent, PartialImageEvent, CompletedEvent),
    )
    return app


def _to_the_playground() -> RedirectResponse:
    return RedirectResponse(f"{ROUTE_PREFIX}/")


def _routers(services: Services) -> list[APIRouter]:
    return [
        openai_image_routes(services),
        openai_model_routes(services),
        native_routes(services),
        job_routes(services),
        adapter_routes(services),
        embedding_routes(services),
        file_routes(services),
        health_routes(services),
    ]
