"""The application as Ray Serve runs it."""

from typing import TYPE_CHECKING

from ray import serve
from ray.serve.config import AutoscalingConfig

from nigaoe.serve.backend import RayBackend
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app

if TYPE_CHECKING:
    from fastapi import FastAPI

APP_NAME = "nigaoe"
ENGINE_NAME = "engine"


def build_application(config: ServeConfig) -> serve.Application:
    """A CPU ingress in front of engine replicas that scale with the requests under way."""

    def ingress() -> "FastAPI":
        return create_app(lambda: RayBackend(serve.get_deployment_handle(ENGINE_NAME, APP_NAME)), config)

    engine = serve.deployment(
        name=ENGINE_NAME,
        max_ongoing_requests=config.engine.max_ongoing_requests,
        max_queued_requests=config.engine.max_queued_requests,
        autoscaling_config=AutoscalingConfig(
            min_replicas=config.autoscaling.min_replicas,
            max_replicas=config.autoscaling.max_replicas,
            target_ongoing_requests=config.autoscaling.target_ongoing_requests,
        ),
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        # A weight that cannot be loaded is not mended by trying twenty times, as is the default.
        max_constructor_retry_count=1,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_s,
    )(Replica)
    front = serve.deployment(
        name="ingress",
        # Waiting costs it little; the engines' queue decides what is too much.
        max_ongoing_requests=10_000,
        # Ray no longer hides GPUs from who asks for none.
        ray_actor_options={"num_cpus": 0.1, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_s,
    )(serve.ingress(ingress)())
    return front.bind(engine.bind(config))
