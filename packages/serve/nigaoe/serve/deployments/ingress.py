"""The ingress as Ray Serve runs it: the HTTP application, which a change of config replaces between two requests."""

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from nigaoe.core.errors import NigaoeError
from nigaoe.serve.backend import RayBackend
from nigaoe.serve.catalog import Catalog
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.deployments.changes import AT_THE_INGRESS, changed
from nigaoe.serve.http.app import create_app
from nigaoe.serve.services import Services
from nigaoe.serve.stores.objects import Objects
from nigaoe.serve.watching.instruments import Instruments
from nigaoe.serve.watching.logs import configure
from nigaoe.serve.watching.ray_meter import RayMeter
from nigaoe.serve.watching.tracing import Tracing, make_tracing

log = logging.getLogger(__name__)


class Ingress:
    """One process that speaks HTTP."""

    def __init__(self, config: ServeConfig, engine: "DeploymentHandle[Any]") -> None:
        configure(config.watching.log_format)
        tracing = make_tracing(config.watching.otlp_endpoint, "ingress")
        instruments = Instruments(RayMeter())
        instruments.begin()
        backend = RayBackend(engine, instruments, tracing)
        self._config = config
        self._services = Services(
            config=config,
            backend=lambda: backend,
            catalog=Catalog(config),
            objects=Objects(config.storage),
            instruments=instruments,
        )
        self._front = Replaceable(create_app(self._services), tracing)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._front

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take on changed limits, defaults, keys and rates; requests under way end as they began.

        Raises:
            ConfigError: Something else changes, or a value is wrong.
        """
        config = changed(self._config, user_config, AT_THE_INGRESS)
        # Before it is ready: the first look imports what reads adapters, and takes seconds.
        with suppress(NigaoeError):
            await self._services.catalog.adapters()
        if config == self._services.config:
            return
        self._services = Services(
            config=config,
            backend=self._services.backend,
            catalog=self._services.catalog,
            objects=self._services.objects,
            instruments=self._services.instruments,
        )
        await self._front.replace(create_app(self._services))
        log.info("config changed", extra={"sections": sorted(user_config)})


class Replaceable:
    """ASGI: hands each request to the application of the moment, inside a span where somebody looks."""

    def __init__(self, app: FastAPI, tracing: Tracing) -> None:
        self._first, self._app, self._tracing = app, app, tracing
        self._replaced = AsyncExitStack()
        """Ends the lifespans of those that came later."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._first(scope, receive, send)
            await self._replaced.aclose()
        elif scope["type"] == "http":
            with self._tracing.span("request", **{"http.method": scope["method"], "url.path": scope["path"]}):
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def replace(self, app: FastAPI) -> None:
        """Let the next request be the new application's."""
        await self._replaced.enter_async_context(app.router.lifespan_context(app))
        self._app = app
