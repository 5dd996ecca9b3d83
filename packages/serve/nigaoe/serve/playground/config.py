"""Where the playground is, and where it finds the server. No Gradio and no Ray here."""

from nigaoe.core.config import Config

APP_NAME = "nigaoe-playground"
ROUTE_PREFIX = "/playground"
IMPORT_PATH = "nigaoe.serve.playground.app:build"


class PlaygroundConfig(Config):
    """Of the application that shows the page."""

    url: str = "http://127.0.0.1:8000"
    """Of the server, as the process of the page reaches it."""
