"""The state of a run as whole tensors by name, so that any number of workers can go on from it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.train.running.engines import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")


@contextmanager
def whole_weights(engine: Engine, adapter: IPAdapter) -> Iterator[dict[str, Tensor]]:
    """All weights of the adapter for the length of a block, on every worker; under ZeRO-3 they are gathered."""
    if engine.zero_stage < 3:
        yield dict(adapter.state_dict())
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(adapter.parameters())):
        yield dict(adapter.state_dict())


def optimizer_state(engine: Engine, adapter: IPAdapter) -> dict[str, Tensor]:
    """Moments of every weight, whole, by `<moment>.<weight>`, on the CPU. Every worker must ask."""
    found: dict[str, Tensor] = {}
    for name, weight in adapter.named_parameters():
        for moment, value in _moments(engine, weight):
            # A copy even on a CPU: the run goes on while it is written.
            found[f"{moment}.{name}"] = value.detach().to("cpu", copy=True)
    return found


def load_optimizer_state(engine: Engine, adapter: IPAdapter, state: Mapping[str, Tensor], step: int) -> None:
    """Give an optimizer the moments that `optimizer_state` took, as if it had made `step` steps."""
    optimizer = engine.engine.optimizer
    if engine.zero_stage == 0:
        inner = getattr(optimizer, "optimizer", optimizer)
        for name, weight in adapter.named_parameters():
            moments = {k.partition(".")[0]: v for k, v in state.items() if k.partition(".")[2] == name}
            # Copies even on a CPU: the optimizer writes into its state, which here is somebody's.
            own = {key: value.to(weight.device, copy=True) for key, value in moments.items()}
            inner.state[weight] = {"step": _count(step), **own}
        return
    flat_name = "fp32_partitioned_groups_flat" if engine.zero_stage == 3 else "single_partition_of_fp32_groups"
    for flat in getattr(optimizer, flat_name):
        zeros = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        optimizer.optimizer.state[flat] = {"step": _count(step), **zeros}
    if engine.zero_stage < 3:
        optimizer._lazy_init_hp_params_optimizer_state()
    for name, weight in adapter.named_parameters():
        for moment in MOMENTS:
            _set_moment(engine, weight, moment, state[f"{moment}.{name}"])


def _moments(engine: Engine, weight: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
    if engine.zero_stage == 0:
        inner: Any = getattr(engine.engine.optimizer, "optimizer", engine.engine.optimizer)
        for key, value in inner.state[weight].items():
            # Whatever an optimizer keeps, those of 8 bits other things; the count of steps is that of the run.
            if isinstance(value, Tensor) and key != "step":
                yield key, value
        return
    from deepspeed.utils import safe_get_full_optimizer_state

    for moment in MOMENTS:
        yield moment, safe_get_full_optimizer_state(weight, moment)


def _set_moment(engine: Engine, weight: nn.Parameter, moment: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if engine.zero_stage < 3:
        safe_set_full_optimizer_state(weight, value.to(weight.device), moment)
        return
    # DeepSpeed's own setter of whole values reads past the end where the workers do not divide a weight.
    part = weight.ds_tensor.numel()  # type: ignore[attr-defined]
    flat = nn.functional.pad(value.flatten(), (0, part * engine.world_size - value.numel()))
    own = flat.narrow(0, part * torch.distributed.get_rank(), part)
    safe_set_local_optimizer_state(weight, own.to(weight.device), moment)


def _count(step: int) -> Tensor:
    return torch.tensor(float(step))
