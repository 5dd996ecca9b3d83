"""`/v1/models`: bases and adapters, as OpenAI lists models."""

import time

from fastapi import APIRouter

from nigaoe.serve.http.openai_schemas import ModelCard, ModelList
from nigaoe.serve.http.problems import FAILURES, unknown_name
from nigaoe.serve.services import Services


def openai_model_routes(services: Services) -> APIRouter:
    """The routes of OpenAI's models."""
    router = APIRouter(tags=["openai"])
    began = int(time.time())

    async def cards() -> list[ModelCard]:
        bases = [ModelCard(id=name, created=began, kind="base") for name in services.config.bases]
        adapters = await services.catalog.adapters()
        return bases + [ModelCard(id=card.name, created=began, kind="adapter") for card in adapters]

    @router.get("/v1/models", responses=FAILURES)
    async def models() -> ModelList:
        """List bases and adapters; the first of each is the default."""
        return ModelList(data=await cards())

    @router.get("/v1/models/{name:path}", responses=FAILURES)
    async def model(name: str) -> ModelCard:
        """One base or adapter."""
        known = {card.id: card for card in await cards()}
        if name not in known:
            raise unknown_name("model", name, list(known))
        return known[name]

    return router
