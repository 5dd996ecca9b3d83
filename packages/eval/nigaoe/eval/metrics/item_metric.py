"""The common ground of all metrics that score one sample at a time.

A metric keeps what it saw of each sample under the sample's id, as bytes and floats that torchmetrics can gather. A
figure is made at the end, in the order of the ids: neither the order of updates nor the number of workers moves a bit.
Unlike torchmetrics 1.9, a merge is noticed by `compute`, and what was seen through other weights is refused.

N samples, W numbers kept of each.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.items import Items
from nigaoe.eval.metrics.plotted import relabelled

_STATES = {"ids": torch.uint8, "groups": torch.uint8, "settings": torch.uint8, "seen": torch.float32}
_TOLERANCE = 1e-3
"""A sample scored again elsewhere differs by rounding, one of another system by more."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a metric kept, each sample once, in the order of the ids."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    rows: Float[np.ndarray, "N W"]
    failed: tuple[str, ...]


class ItemMetric(Metric):
    """Base of the metrics; a subclass says what it keeps of a sample and what it makes of that."""

    full_state_update = False
    is_differentiable = False
    ids: list[Tensor]
    groups: list[Tensor]
    settings: list[Tensor]
    seen: list[Tensor]

    def __init__(self, name: str, setting: str = "", **kwargs: Any) -> None:
        """`setting`: name and hash of what it looks through; `kwargs`: torchmetrics' own."""
        super().__init__(**kwargs)
        self.name, self.setting = name, setting
        for state in _STATES:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def items(self) -> Items:
        """One value per sample. Sees what this process has; merge first, or call it within `sync_context()`."""

    def compute(self) -> Any:
        """Mean over all samples that have a value, float64."""
        return torch.tensor(self.items().mean(), dtype=torch.float64)

    def fail(self, ids: Sequence[str]) -> None:
        """Count samples that have no picture to look at. Seen later after all, they are failed no longer."""
        if ids:
            self._append(ids, [""] * len(ids), np.full((len(ids), 1), np.nan), is_failure=True)
            self._computed = None
            self._update_count += 1

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Take in what another metric saw, or its `metric_state`.

        Raises:
            DataError: It is another metric or looked through other weights. Nothing is merged then.
        """
        count, kinds = 1, {self._kind}
        if isinstance(incoming_state, Metric):
            if not isinstance(incoming_state, type(self)):
                raise DataError(f"a {type(incoming_state).__name__} cannot be merged into a {type(self).__name__}")
            kinds.add(incoming_state._kind)
            count, incoming_state = incoming_state._update_count, incoming_state.metric_state
        _require_one(kinds | _kinds(_lines(_listed(incoming_state["settings"]))))
        self._reduce_states({state: _listed(incoming_state[state]) for state in _STATES})
        # torchmetrics forgets both: a figure computed before would be given again, as if nothing had come.
        self._computed = None
        self._update_count += count

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the figure, or those of several steps; needs matplotlib."""
        return relabelled(self._plot(val, ax), self.name)

    @property
    def _kind(self) -> str:
        return f"{self.name}\t{self.setting}"

    def _keep(self, ids: Sequence[str], groups: Sequence[str] | None, rows: Float[np.ndarray, "N W"]) -> None:
        """Keep a row of numbers for each sample; NaN where there was nothing to see."""
        if np.isinf(rows).any():
            raise DataError(f"{self.name} of samples {list(ids)[:3]!r} is infinite; look at what they show")
        self._append(ids, ids if groups is None else groups, rows)

    def _append(
        self, ids: Sequence[str], groups: Sequence[str], rows: Float[np.ndarray, "N W"], is_failure: bool = False
    ) -> None:
        if not len(ids) == len(groups) == len(rows):
            raise DataError(f"{len(ids)} ids, {len(groups)} groups and {len(rows)} pictures were given; give as many")
        if any("\n" in word for word in (*ids, *groups)) or not all(ids):
            raise DataError("the id of a sample is empty or has a line break; give it a name")
        width = 0 if is_failure else rows.shape[1]
        # One line per sample: a shard of any size, joined to any other, reads the same.
        self.settings.append(_bytes([f"{self._kind}\t{width}"] * len(ids)).to(self.device))
        self.ids.append(_bytes(ids).to(self.device))
        self.groups.append(_bytes(groups).to(self.device))
        if not is_failure:
            self.seen.append(torch.from_numpy(rows.astype(np.float32).reshape(-1)).to(self.device))

    def _table(self) -> Seen:
        settings = _lines(self.settings)
        _require_one({self._kind, *_kinds(settings)})
        widths = [int(line.rsplit("\t", 1)[1]) for line in settings]
        flat = _flat(self.seen, torch.float32).numpy()
        starts = np.cumsum([0, *widths])
        rows = [flat[start : start + width] for start, width in zip(starts, widths, strict=False)]
        return _each_once(_lines(self.ids), _lines(self.groups), rows)

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        # A process that saw nothing would send an empty float where bytes are gathered.
        for state, dtype in _STATES.items():
            setattr(self, state, [_flat(getattr(self, state), dtype, self.device)])
        super()._sync_dist(dist_sync_fn, process_group)


def _each_once(ids: list[str], groups: list[str], rows: list[np.ndarray]) -> Seen:
    kept: dict[str, tuple[str, np.ndarray]] = {}
    for sample, group, row in zip(ids, groups, rows, strict=True):
        known = kept.get(sample)
        if known is None or len(known[1]) == 0:
            kept[sample] = (group, row)
        elif len(row):
            if known[0] != group or not _is_same(known[1], row):
                raise DataError(f"sample {sample!r} was scored twice and differently; give each picture its own id")
            # Of two roundings always the same one, whoever came first.
            kept[sample] = (group, min(known[1], row, key=lambda r: r.tolist()))
    order = sorted(sample for sample, (_, row) in kept.items() if len(row))
    width = len(kept[order[0]][1]) if order else 0
    return Seen(
        ids=tuple(order),
        groups=tuple(kept[sample][0] for sample in order),
        rows=np.stack([kept[sample][1] for sample in order]) if order else np.zeros((0, width), np.float32),
        failed=tuple(sorted(sample for sample, (_, row) in kept.items() if not len(row))),
    )


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    scale = max(1.0, float(np.nanmax(np.abs(a), initial=0.0)))
    return bool(np.allclose(a, b, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True))


def _require_one(kinds: set[str]) -> None:
    if len(kinds) > 1:
        told = " and ".join(sorted(repr(kind.replace("\t", " ").strip()) for kind in kinds))
        raise DataError(f"scores by {told} cannot be merged; score all samples through the same weights")


def _kinds(settings: Sequence[str]) -> set[str]:
    return {line.rsplit("\t", 1)[0] for line in settings}


def _bytes(words: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray("".join(f"{word}\n" for word in words).encode()), dtype=torch.uint8)


def _lines(parts: list[Tensor] | Tensor) -> list[str]:
    return bytes(_flat(parts, torch.uint8).numpy()).decode().split("\n")[:-1]


def _listed(state: list[Tensor] | Tensor) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def _flat(parts: list[Tensor] | Tensor, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    kept = [part.to(device=device, dtype=dtype) for part in _listed(parts)]
    return torch.cat(kept) if kept else torch.zeros(0, dtype=dtype, device=device)
