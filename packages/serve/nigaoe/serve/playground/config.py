"""Where the playground is, and where it finds the server. No Gradio and no Ray here."""

from typing import Self

from pydantic import Field

from nigaoe.core.config import Config
from nigaoe.serve.config import ServeConfig

APP_NAME = "nigaoe-playground"
ROUTE_PREFIX = "/playground"
IMPORT_PATH = "nigaoe.serve.playground.app:build"


class PlaygroundConfig(Config):
    """Of the application that shows the page."""

    url: str = "http://127.0.0.1:8000"
    """Of the server, as the process of the page reaches it."""
    previews: int = Field(3, ge=0)
    """Of each picture; no more than the server's `limits.partial_images`."""

    @classmethod
    def of(cls, config: ServeConfig, port: int) -> Self:
        """For a server with this config."""
        previews = min(cls().previews, config.limits.partial_images)
        return cls(url=config.local_url(port), previews=previews)
