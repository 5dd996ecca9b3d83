import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from nigaoe.serve.scaling.compared import Sight, World, queue_length_policy, work_policy
from nigaoe.serve.scaling.simulated import Device, SimulatedReplica, Waiting
from nigaoe.serve.scaling.simulation import simulate, table
from nigaoe.serve.scaling.traces import Arrival, Day, day_of_arrivals

WORLD = World(device=Device(base_s=0.1, row_s=0.1, max_rows=2), cold_start_s=10, max_replicas=4)


def test_rows_share_a_replica_as_the_device_says() -> None:
    # Alone 0.2 s a step; together 0.3 s. The second joins when the first has taken 5 of its 10 steps.
    arrivals = [Arrival(0.0, 1, 10), Arrival(1.0, 1, 5)]
    outcome = simulate("fixed", lambda sight: 1, arrivals, WORLD)
    assert sorted(outcome.latencies_s) == pytest.approx([1.5, 2.5])
    assert outcome.waits_s == [0.0, 0.0]


def test_what_finds_no_place_waits_and_then_is_refused() -> None:
    small = World(device=Device(1.0, 0.0, max_rows=1), max_ongoing=1, max_queued=1, max_replicas=1)
    outcome = simulate("fixed", lambda sight: 1, [Arrival(0.0, 1, 4), Arrival(1.0, 1, 4), Arrival(2.0, 1, 4)], small)
    assert outcome.refused == 1
    assert outcome.waits_s == pytest.approx([0.0, 3.0])


def test_replicas_start_cold_and_leave_when_they_are_done() -> None:
    arrivals = [Arrival(0.5, 1, 30), Arrival(0.5, 1, 30), Arrival(0.5, 1, 30)]
    outcome = simulate("two", lambda sight: 2 if sight.now_s < 15 else 1, arrivals, WORLD)
    # Two rows at 0.3 s a step fill the first replica; the third waits for the second one, up at 10 s.
    assert sorted(outcome.waits_s) == pytest.approx([0.0, 0.0, 9.0])
    assert len(outcome.latencies_s) == 3
    assert outcome.most_replicas == 2


def test_pending_work_is_what_is_left() -> None:
    replica = SimulatedReplica(Device(0.1, 0.1, 2), 0.0)
    replica.take(Waiting(Arrival(0.0, 3, 10), rows_left=3, rows_open=3))
    assert replica.pending_row_steps() == 30
    assert replica.advance(1.5) == []
    assert replica.pending_row_steps() == pytest.approx(20)


@pytest.mark.parametrize(("ongoing", "replicas"), [(0, 3), (5, 3), (6, 3), (7, 3), (40, 3), (3, 1)])
def test_the_policy_we_compare_with_is_rays(ongoing: int, replicas: int) -> None:
    config = AutoscalingConfig(min_replicas=1, max_replicas=16, target_ongoing_requests=2)
    context = AutoscalingContext(
        deployment_id=DeploymentID("engine", "nigaoe"),
        deployment_name="engine",
        app_name="nigaoe",
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        running_replicas=[],
        total_num_requests=float(ongoing),
        total_queued_requests=0.0,
        aggregated_metrics=None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=16,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=config,
    )
    theirs, _ = replica_queue_length_autoscaling_policy(context)
    ours, target = queue_length_policy(World(), 2), replicas
    for second in range(601):
        sight = Sight(float(second), ongoing, 0, 0.0, 0.0, 0.0, 0.0, replicas, target)
        wanted = ours(sight)
        if wanted != target:
            assert second == (30 if wanted > target else 600)
            break
    assert wanted == min(max(-(-theirs // 1), 1), 16)


def test_a_day_is_the_same_every_time_and_has_tides_and_bursts() -> None:
    day = Day(mean_per_s=0.05, bursts=2)
    arrivals = day_of_arrivals(day)
    assert arrivals == day_of_arrivals(day)
    assert arrivals != day_of_arrivals(Day(mean_per_s=0.05, bursts=2, seed=1))
    night = sum(a.at_s < 3600 * 3 for a in arrivals)
    noon = sum(3600 * 10.5 <= a.at_s < 3600 * 13.5 for a in arrivals)
    assert noon > 3 * night


def test_by_work_waits_less_than_by_requests_at_no_more_replica_hours() -> None:
    world = World()
    arrivals = [a for a in day_of_arrivals(Day(bursts=20)) if a.at_s < 6 * 3600]
    ours = simulate("work", work_policy(world), arrivals, world)
    theirs = simulate("requests", queue_length_policy(world, 2), arrivals, world)
    assert len(ours.waits_s) + ours.refused == len(arrivals) == len(theirs.waits_s) + theirs.refused
    assert ours.replica_hours < theirs.replica_hours
    assert sum(ours.waits_s) < sum(theirs.waits_s)
    lines = table([ours, theirs]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
