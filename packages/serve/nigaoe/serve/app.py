"""The application as Ray Serve builds it: `import_path: nigaoe.serve.app:build`, with a `ServeConfig` as its `args`."""

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from nigaoe.serve.config import ServeConfig
from nigaoe.serve.deployments.engine import EngineReplica
from nigaoe.serve.deployments.ingress import Ingress
from nigaoe.serve.scaling.router import STATS_PERIOD_S

APP_NAME = "nigaoe"
INGRESS_CPUS = 0.1


def build(args: ServeConfig) -> serve.Application:
    """CPU ingresses in front of engine replicas, whose number follows the work that waits."""
    scaling = args.autoscaling
    engine = serve.deployment(
        name="engine",
        max_ongoing_requests=args.engine.max_ongoing_requests,
        max_queued_requests=args.engine.max_queued_requests,
        autoscaling_config=AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            # Even where none is kept: what cannot start is found out at once.
            initial_replicas=max(1, scaling.min_replicas),
            max_replicas=scaling.max_replicas,
            # The policy knows when to wait.
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            downscale_to_zero_delay_s=0.0,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function="nigaoe.serve.scaling.ray_policy:WorkPolicy",
                policy_kwargs={
                    "wait_s": scaling.wait_s,
                    "cold_start_s": scaling.cold_start_s,
                    "idle_s": scaling.idle_s,
                },
            ),
        ),
        request_router_config=RequestRouterConfig.model_validate(
            {
                "request_router_class": "nigaoe.serve.scaling.router:WorkRouter",
                "request_routing_stats_period_s": STATS_PERIOD_S,
            }
        ),
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        user_config={},
        health_check_period_s=2.0,
        # A weight that cannot be loaded is not mended by trying twenty times, as is the default.
        max_constructor_retry_count=1,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=args.drain_s,
    )(EngineReplica)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=args.ingresses,
        # Waiting costs it little; the engines' queue decides what is too much.
        max_ongoing_requests=10_000,
        # Ray no longer hides GPUs from who asks for none.
        ray_actor_options={"num_cpus": INGRESS_CPUS, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}},
        user_config={},
        health_check_period_s=2.0,
        max_constructor_retry_count=1,
        # The new one answers before the old one leaves.
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=args.drain_s,
    )(serve.ingress()(Ingress))
    return ingress.bind(args, engine.bind(args))
