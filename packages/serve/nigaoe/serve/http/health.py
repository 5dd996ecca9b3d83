"""`/healthz` and `/readyz`: whether this ingress lives, and whether engines answer it."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from nigaoe.serve.http.drawing import lost
from nigaoe.serve.http.problems import FAILURES
from nigaoe.serve.orders import EngineStoppedError
from nigaoe.serve.services import Services

STATS_S = 5.0


class Health(BaseModel):
    """`busy` where no engine found time to say more."""

    status: Literal["ok", "busy"]
    active_rows: int | None = None
    waiting_rows: int | None = None
    pending_row_steps: int | None = None
    unet_calls: int | None = None


class Alive(BaseModel):
    """This process answers."""

    status: Literal["ok"] = "ok"


def health_routes(services: Services) -> APIRouter:
    """The routes that tell an operator how it is."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Alive:
        """Whether this process lives; no engine is asked, so none is started for it and none that hangs ends it."""
        return Alive()

    @router.get("/readyz", responses={503: FAILURES[503]})
    async def readyz() -> Health:
        """Ask an engine how it is."""
        try:
            async with asyncio.timeout(STATS_S):
                stats = await services.backend().stats()
        except TimeoutError:
            return Health(status="busy")
        except EngineStoppedError:
            raise lost() from None
        return Health(
            status="ok",
            active_rows=stats.active_rows,
            waiting_rows=stats.waiting_rows,
            pending_row_steps=stats.pending_row_steps,
            unet_calls=stats.unet_calls,
        )

    return router
