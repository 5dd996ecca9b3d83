"""The playground as an application of its own: a client of the API like any other, in a process of its own.

Ray Serve builds it as `import_path: nigaoe.serve.playground.app:build`. One replica: a page talks to the process that
began it.
"""

from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp

from nigaoe.serve.playground.config import PlaygroundConfig

MOST_UPLOADED = "20mb"


def playground_app(config: PlaygroundConfig) -> FastAPI:
    """The page as an ASGI application."""
    # Here: Gradio takes seconds to import.
    import gradio as gr

    from nigaoe.serve.playground.page import CSS, page, theme

    mounted: FastAPI = gr.mount_gradio_app(
        FastAPI(title="nigaoe playground", openapi_url=None),
        page(config.url, config.previews),
        path="/",
        theme=theme(),
        css=CSS,
        footer_links=[],
        max_file_size=MOST_UPLOADED,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=True,
    )
    return mounted


class Playground:
    """The process of the page."""

    def __init__(self, config: PlaygroundConfig) -> None:
        self._app = playground_app(config)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app


def build(args: PlaygroundConfig) -> serve.Application:
    """One replica, which asks the server over HTTP."""
    return serve.deployment(
        name="playground",
        num_replicas=1,
        max_ongoing_requests=1_000,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}},
        max_constructor_retry_count=1,
        graceful_shutdown_wait_loop_s=0.2,
        # An open page holds a connection for as long as it is open.
        graceful_shutdown_timeout_s=1.0,
    )(serve.ingress()(Playground)).bind(args)
