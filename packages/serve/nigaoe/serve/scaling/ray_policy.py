"""The policy as Ray Serve asks it: figures that replicas and handles report in, a number of replicas out."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ray.serve.config import AutoscalingContext

from nigaoe.serve.scaling.policy import Aims, Load, Memory, decide

PENDING = "pending_row_steps"
RATE = "row_steps_per_s"
ARRIVING = "arriving_row_steps_per_s"
PER_ORDER = "row_steps_per_order"
"""What `record_autoscaling_stats` of a replica gives."""


class WorkPolicy:
    """Scales by work; Ray's own delays and factors are to be left at 0 and 1."""

    def __init__(self, wait_s: float, cold_start_s: float, idle_s: float) -> None:
        self._wait_s, self._cold_start_s, self._idle_s = wait_s, cold_start_s, idle_s

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted, and what is remembered until the next time."""
        aims = Aims(
            ctx.capacity_adjusted_min_replicas,
            ctx.capacity_adjusted_max_replicas,
            self._wait_s,
            self._cold_start_s,
            self._idle_s,
        )
        per_order = _mean(_latest(ctx, PER_ORDER)) or ctx.policy_state.get(PER_ORDER, 0.0)
        known = {field.name for field in fields(Memory)}
        memory = Memory(**{key: value for key, value in ctx.policy_state.items() if key in known})
        wanted, memory = decide(_load(ctx, per_order), aims, memory)
        return wanted, asdict(memory) | {PER_ORDER: per_order}


def _load(ctx: AutoscalingContext, per_order: float) -> Load:
    pending = _latest(ctx, PENDING)
    # A request in a queue of the ingress is known by nothing but its number.
    outside = ctx.total_queued_requests if pending else ctx.total_num_requests
    return Load(
        now_s=ctx.current_time or 0.0,
        pending_row_steps=sum(pending.values()) + outside * max(per_order, 1.0),
        arriving_row_steps_per_s=sum(_latest(ctx, ARRIVING).values()),
        row_steps_per_s=_mean({replica: rate for replica, rate in _latest(ctx, RATE).items() if rate > 0}),
        current=ctx.current_num_replicas,
        target=ctx.target_num_replicas,
    )


def _latest(ctx: AutoscalingContext, metric: str) -> Mapping[object, float]:
    """The newest value of each replica; Ray's own aggregate is a mean over the look-back period."""
    series = (ctx.raw_metrics or {}).get(metric, {})
    return {replica: float(values[-1].value) for replica, values in series.items() if len(values) > 0}


def _mean(values: Mapping[object, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0
