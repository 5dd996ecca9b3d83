"""The adapters to Ray on Ray's own objects, without a cluster."""

import pickle
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve._private.config import DeploymentConfig
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy, RequestRouterConfig

from nigaoe.serve.scaling.ray_policy import WorkPolicy
from nigaoe.serve.scaling.router import WorkRouter

DEPLOYMENT = DeploymentID("engine", "nigaoe")
ONE, TWO = ReplicaID("one", DEPLOYMENT), ReplicaID("two", DEPLOYMENT)


def context(metrics: dict[str, dict[ReplicaID, list[float]]], **values: Any) -> AutoscalingContext:
    known: dict[str, Any] = {
        "deployment_id": DEPLOYMENT,
        "deployment_name": "engine",
        "app_name": "nigaoe",
        "current_num_replicas": 2,
        "target_num_replicas": 2,
        "running_replicas": [ONE, TWO],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": None,
        "raw_metrics": lambda: {
            name: {
                replica: [TimeStampedValue(float(i), v) for i, v in enumerate(series)] for replica, series in by.items()
            }
            for name, by in metrics.items()
        },
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 20,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 1000.0,
        "config": None,
    }
    return AutoscalingContext(**known | values)


def figures(pending: float) -> dict[str, dict[ReplicaID, list[float]]]:
    return {
        "pending_row_steps": {ONE: [9e9, pending], TWO: [pending]},
        "row_steps_per_s": {ONE: [30.0], TWO: [0.0]},
        "arriving_row_steps_per_s": {ONE: [20.0], TWO: [20.0]},
        "row_steps_per_order": {ONE: [25.0], TWO: [25.0]},
    }


def test_the_newest_figures_of_all_replicas_are_added_up() -> None:
    policy = WorkPolicy(wait_s=10, cold_start_s=60, idle_s=300)
    # Each has 100 row-steps, 40 a second come, 60 a second are done.
    wanted, state = policy(context(figures(100.0)))
    assert wanted == 2
    # 200 requests wait outside, of 25 row-steps each: 5200 + 40 * 60 - 2 * 30 * 60 = 4000 are left, 300 a replica.
    wanted, state = policy(context(figures(100.0), total_queued_requests=200.0))
    assert wanted == 15
    assert state["rate"] == 30.0
    assert state["grown_s"] == 1000.0


def test_the_state_survives_the_way_through_ray() -> None:
    policy = WorkPolicy(wait_s=10, cold_start_s=60, idle_s=300)
    _, state = policy(context(figures(100.0)))
    # Ray adds keys of its own, and asks without figures as long as replicas have none.
    state = pickle.loads(pickle.dumps(state | {"__decision_counter": 3}))
    wanted, after = policy(
        context({}, policy_state=state, current_num_replicas=0, target_num_replicas=0, total_num_requests=80.0)
    )
    # 80 requests of 25 row-steps, nobody there: 2000 row-steps, 300 a replica.
    assert wanted == 7
    assert after["row_steps_per_order"] == 25.0


def test_ray_takes_policy_and_router_by_their_names() -> None:
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function="nigaoe.serve.scaling.ray_policy:WorkPolicy",
        policy_kwargs={"wait_s": 1.0, "cold_start_s": 2.0, "idle_s": 3.0},
    )
    made = policy.get_policy()(**policy.policy_kwargs)
    assert made(context({}))[0] == 2
    router = RequestRouterConfig.model_validate({"request_router_class": "nigaoe.serve.scaling.router:WorkRouter"})
    # By value: another object of the same name.
    assert router.get_request_router_class().__name__ == WorkRouter.__name__
    config = AutoscalingConfig(min_replicas=0, max_replicas=2, policy=policy)
    assert DeploymentConfig.from_default(autoscaling_config=config).to_proto_bytes()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("queued", [0.0, 500.0])
def test_bounds_are_those_of_the_cluster(queued: float) -> None:
    policy = WorkPolicy(wait_s=10, cold_start_s=60, idle_s=300)
    wanted, _ = policy(context(figures(1e6), total_queued_requests=queued, capacity_adjusted_max_replicas=5))
    assert wanted == 5
