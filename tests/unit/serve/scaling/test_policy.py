from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nigaoe.serve.orders import Order
from nigaoe.serve.scaling.arrivals import OVER_S, Arrivals
from nigaoe.serve.scaling.policy import Aims, Load, Memory, decide

AIMS = Aims(min_replicas=1, max_replicas=16, wait_s=10, cold_start_s=60, idle_s=300)

aims = st.builds(
    lambda low, more, wait, cold, idle: Aims(low, max(1, low + more), wait, cold, idle),
    st.integers(0, 4),
    st.integers(0, 20),
    st.floats(1, 100),
    st.floats(1, 600),
    st.floats(1, 1000),
)
loads = st.builds(
    Load,
    now_s=st.just(1000.0),
    pending_row_steps=st.floats(0, 1e6),
    arriving_row_steps_per_s=st.floats(0, 1e4),
    row_steps_per_s=st.floats(0, 1e3),
    current=st.integers(0, 20),
    target=st.integers(0, 20),
)
memories = st.builds(
    Memory,
    rate=st.floats(0, 1e3),
    seen_s=st.floats(0, 1000),
    grown_s=st.none() | st.floats(0, 1000),
    spare_since_s=st.none() | st.floats(0, 1000),
    spare_most=st.integers(0, 20),
)


@given(loads, aims, memories)
def test_bounds_are_kept(load: Load, aims: Aims, memory: Memory) -> None:
    # What was needed at most was itself within bounds.
    memory = replace(memory, spare_most=min(memory.spare_most, aims.max_replicas))
    wanted, _ = decide(load, aims, memory)
    assert aims.min_replicas <= wanted <= aims.max_replicas


@given(loads, aims, memories, st.floats(0, 1e6), st.floats(0, 1e4))
def test_more_work_never_asks_for_fewer(load: Load, aims: Aims, memory: Memory, work: float, rate: float) -> None:
    heavier = replace(
        load,
        pending_row_steps=load.pending_row_steps + work,
        arriving_row_steps_per_s=load.arriving_row_steps_per_s + rate,
    )
    assert decide(heavier, aims, memory)[0] >= decide(load, aims, memory)[0]


@given(loads, aims, memories)
def test_with_work_there_is_somebody(load: Load, aims: Aims, memory: Memory) -> None:
    busy = replace(load, pending_row_steps=max(1.0, load.pending_row_steps))
    assert decide(busy, aims, memory)[0] >= 1


@given(st.floats(0, 300), st.floats(1, 100))
def test_a_steady_load_is_given_one_number(arriving: float, speed: float) -> None:
    target, memory, seen = 1, Memory(), []
    for second in range(0, 3600, 5):
        # What is in flight where nothing waits: some seconds of what arrives.
        load = Load(float(second), 3 * arriving, arriving, speed, target, target)
        target, memory = decide(load, AIMS, memory)
        seen.append(target)
    changes = [b for a, b in zip(seen, seen[1:], strict=False) if a != b]
    assert changes == [] or changes == sorted(changes)
    assert len(set(seen[-240:])) == 1


def test_a_burst_that_is_over_before_a_new_one_could_help_starts_none() -> None:
    speed, burst_s = 30.0, 50.0
    assert decide(Load(0, burst_s * speed, 0, speed, 1, 1), AIMS, Memory())[0] == 1
    # 60 s of cold start leave 140 s of work, to be done within 10 s.
    assert decide(Load(0, 200 * speed, 0, speed, 1, 1), AIMS, Memory())[0] == 14


def test_those_that_are_starting_are_not_ordered_again() -> None:
    load = Load(0, 600.0, 60.0, 30.0, 1, 1)
    first, memory = decide(load, AIMS, Memory())
    assert first > 1
    seen = []
    for second in range(1, 60):
        # Work comes at twice the speed of the one that draws.
        later = replace(load, now_s=float(second), pending_row_steps=600.0 + 30.0 * second, target=first)
        wanted, memory = decide(later, AIMS, memory)
        seen.append(wanted)
    assert max(seen) == first


def test_fewer_only_after_all_of_idle_s_and_to_what_was_needed_meanwhile() -> None:
    memory, target = Memory(rate=30.0, seen_s=0.0), 8
    trace = []
    for second in range(0, 400, 10):
        arriving = 60.0 if second == 200 else 20.0
        target, memory = decide(Load(float(second), 0.0, arriving, 30.0, target, target), AIMS, memory)
        trace.append(target)
    assert trace[:30] == [8] * 30
    # 60 row-steps/s at 30 each, none busier than three quarters.
    assert trace[30:] == [3] * 10


def test_zero_only_where_nothing_came_for_long() -> None:
    aims = replace(AIMS, min_replicas=0)
    memory, target, trace = Memory(rate=30.0, seen_s=0.0), 1, []
    for second in range(0, 1000, 10):
        pending = 25.0 if second == 290 else 0.0
        target, memory = decide(Load(float(second), pending, 0.0, 0.0, target, target), aims, memory)
        trace.append(target)
    assert trace.index(0) * 10 == 600
    assert decide(Load(1000.0, 25.0, 0.0, 0.0, 0, 0), aims, memory)[0] == 1


def test_a_half_idle_replica_is_not_thought_slow() -> None:
    _, memory = decide(Load(0, 500, 25, 30, 1, 1), AIMS, Memory())
    # Small batches: 17 row-steps/s, though it could do 30.
    assert decide(Load(60, 10, 20, 17, 1, 1), AIMS, memory)[0] == 1


def test_arrivals_are_averaged_and_forgotten() -> None:
    arrivals = Arrivals()
    for second in range(600):
        order = Order(id="r", base="b", prompt="", seeds=(1, 2), steps=10, guidance_scale=1.0)
        arrivals.ordered(order, float(second))
    assert 19 < arrivals.row_steps_per_s(600.0) < 21
    assert arrivals.row_steps_per_order == 20
    assert arrivals.row_steps_per_s(600.0 + 10 * OVER_S) < 0.01
