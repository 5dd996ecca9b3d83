"""A day in simulated time, under this policy and under Ray's own: `python -m nigaoe.serve.scaling.simulation`.

What differs between the runs is the policy alone: arrivals, replicas, routing and bounds are the same. Ray's policy
asks for as many replicas as give each `target_ongoing_requests`, averaged over 30 s, up after 30 s and down after 600 s
(ray/serve/autoscaling_policy.py).
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from nigaoe.serve.loadtest.results import percentile
from nigaoe.serve.scaling.arrivals import OVER_S
from nigaoe.serve.scaling.compared import TICK_S, Policy, Sight, World, queue_length_policy, work_policy
from nigaoe.serve.scaling.simulated import SimulatedReplica, Waiting
from nigaoe.serve.scaling.traces import DAY_S, Arrival, Day, day_of_arrivals


@dataclass
class Outcome:
    """A simulated day."""

    name: str
    replica_hours: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    """From each order's arrival to its first step."""
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    most_replicas: int = 0


def simulate(name: str, policy: Policy, arrivals: list[Arrival], world: World) -> Outcome:
    """Let a day pass, and the night until the last order is done."""
    return _Run(name, policy, arrivals, world).outcome()


class _Run:
    def __init__(self, name: str, policy: Policy, arrivals: list[Arrival], world: World) -> None:
        self._policy, self._arrivals, self._world = policy, arrivals, world
        self._result = Outcome(name)
        self._replicas = [SimulatedReplica(world.device, 0.0) for _ in range(max(1, world.min_replicas))]
        self._queue: deque[Waiting] = deque()
        self._ends: list[tuple[float, int, SimulatedReplica]] = []
        self._scheduled: dict[int, float] = {}
        self._weight = 0.0
        self._mean_work = 0.0

    def outcome(self) -> Outcome:
        place, tick_s = 0, 0.0
        while place < len(self._arrivals) or self._queue or any(r.orders for r in self._replicas):
            arrival_s = self._arrivals[place].at_s if place < len(self._arrivals) else math.inf
            end_s = self._ends[0][0] if self._ends else math.inf
            if end_s <= min(arrival_s, tick_s):
                _, number, replica = heapq.heappop(self._ends)
                if self._scheduled.get(number) == end_s:
                    self._end(replica, end_s)
            elif arrival_s <= tick_s:
                self._arrive(self._arrivals[place])
                place += 1
            else:
                self._tick(tick_s)
                tick_s += TICK_S
        self._result.replica_hours /= 3600
        return self._result

    def _arrive(self, arrival: Arrival) -> None:
        work = arrival.rows * arrival.steps
        self._weight += work
        self._mean_work += 0.1 * (work - self._mean_work)
        if len(self._queue) >= self._world.max_queued:
            self._result.refused += 1
            return
        self._queue.append(Waiting(arrival, rows_left=arrival.rows, rows_open=arrival.rows))
        self._place(arrival.at_s)

    def _place(self, now_s: float) -> None:
        """Give queued orders to the replicas with the least work that have a place."""
        while self._queue:
            open_ones = [
                r for r in self._replicas if r.ready_s <= now_s and not r.leaving and r.orders < self._world.max_ongoing
            ]
            if not open_ones:
                return
            for replica in open_ones:
                self._collect(replica.advance(now_s), now_s)
            replica = min(open_ones, key=SimulatedReplica.pending_row_steps)
            replica.take(self._queue.popleft())
            for touched in open_ones:
                self._schedule(touched)

    def _end(self, replica: SimulatedReplica, now_s: float) -> None:
        self._collect(replica.advance(now_s), now_s)
        self._schedule(replica)
        self._place(now_s)

    def _collect(self, ended: list[Waiting], now_s: float) -> None:
        for order in ended:
            assert order.began_s is not None
            self._result.waits_s.append(order.began_s - order.arrival.at_s)
            self._result.latencies_s.append(now_s - order.arrival.at_s)

    def _schedule(self, replica: SimulatedReplica) -> None:
        end_s = replica.next_end_s()
        if end_s is None:
            self._scheduled.pop(id(replica), None)
            return
        if self._scheduled.get(id(replica)) != end_s:
            self._scheduled[id(replica)] = end_s
            heapq.heappush(self._ends, (end_s, id(replica), replica))

    def _tick(self, now_s: float) -> None:
        self._replicas = [r for r in self._replicas if not (r.leaving and r.orders == 0)]
        self._result.replica_hours += len(self._replicas) * TICK_S
        self._place(now_s)
        staying = [r for r in self._replicas if not r.leaving]
        self._result.most_replicas = max(self._result.most_replicas, len(staying))
        wanted = self._policy(self._sight(now_s, staying))
        for _ in range(wanted - len(staying)):
            self._replicas.append(SimulatedReplica(self._world.device, now_s + self._world.cold_start_s, now_s=now_s))
        # Those that do not draw yet first, as Ray does.
        for replica in sorted(staying, key=lambda r: (r.ready_s <= now_s, r.orders))[: max(0, len(staying) - wanted)]:
            replica.leaving = True
        self._weight *= math.exp(-TICK_S / OVER_S)

    def _sight(self, now_s: float, staying: list[SimulatedReplica]) -> Sight:
        for replica in self._replicas:
            if replica.rows:
                self._collect(replica.advance(now_s), now_s)
                self._schedule(replica)
        drawing = [r for r in staying if r.ready_s <= now_s]
        rates = [r.device.row_steps_per_s(len(r.rows)) for r in drawing if r.rows]
        return Sight(
            now_s=now_s,
            ongoing=len(self._queue) + sum(r.orders for r in drawing),
            queued=len(self._queue),
            pending_row_steps=sum(r.pending_row_steps() for r in drawing),
            arriving_row_steps_per_s=self._weight / OVER_S,
            row_steps_per_order=self._mean_work,
            row_steps_per_s=sum(rates) / len(rates) if rates else 0.0,
            current=len(drawing),
            target=len(staying),
        )


def table(outcomes: list[Outcome]) -> str:
    """One line a policy, for a terminal."""
    heads = ("policy", "replica-hours", "p50 wait s", "p95 wait s", "p99 wait s", "p95 total s", "refused", "most")
    rows: list[tuple[str, ...]] = [heads]
    for outcome in outcomes:
        waits = [f"{percentile(outcome.waits_s, share):.1f}" for share in (0.5, 0.95, 0.99)]
        total = f"{percentile(outcome.latencies_s, 0.95):.1f}"
        hours = f"{outcome.replica_hours:.1f}"
        rows.append((outcome.name, hours, *waits, total, str(outcome.refused), str(outcome.most_replicas)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for name, *figures in rows:
        cells = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def main() -> None:
    """Print the comparison."""
    import typer

    world, arrivals = World(), day_of_arrivals(Day())
    work = sum(arrival.rows * arrival.steps for arrival in arrivals)
    mean = work / DAY_S / world.device.row_steps_per_s(world.device.max_rows)
    typer.echo(f"{len(arrivals)} orders, {work} row-steps: {mean:.2f} full replicas on average\n")
    typer.echo(
        table(
            [
                simulate("by work (wait 10 s)", work_policy(world), arrivals, world),
                simulate("by work (wait 30 s)", work_policy(world, wait_s=30), arrivals, world),
                simulate("Ray, 2 requests", queue_length_policy(world, 2), arrivals, world),
                simulate("Ray, 4 requests", queue_length_policy(world, 4), arrivals, world),
                simulate("Ray, 8 requests", queue_length_policy(world, 8), arrivals, world),
                simulate("Ray, 12 requests", queue_length_policy(world, 12), arrivals, world),
            ]
        )
    )


if __name__ == "__main__":
    main()
