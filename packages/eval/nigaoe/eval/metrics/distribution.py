"""What the metrics of distributions share: two sides, real and fake, whose states can be carried elsewhere and merged.

N samples, D features.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.plotted import relabelled
from nigaoe.eval.metrics.samples import Ids, Samples
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.scoring.features import setting_of

Side = Literal["real", "fake"]
SIDES: tuple[Side, Side] = ("real", "fake")


class Part(Protocol):
    """What is known of one side; merging is associative."""

    @property
    def space(self) -> FeatureSpace:
        """What its features are of."""

    @property
    def ids(self) -> Int64[np.ndarray, " N"]:
        """Whose they are, in order."""

    def merge(self, other: Self) -> Self:
        """Both together, no sample twice."""


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, eq=False)
class DistributionState(Generic[P]):
    """Both sides of a metric as plain arrays, for a pickle, a file or Ray's object store."""

    real: P
    fake: P


def merged_states(states: Iterable[DistributionState[P]]) -> DistributionState[P]:
    """One or more states as one.

    Merged in the order of their sample ids: the same states give the same bits, whatever order they come in.
    """
    given = list(states)
    return DistributionState(_merged([s.real for s in given]), _merged([s.fake for s in given]))


def _merged(parts: list[P]) -> P:
    ordered = sorted(parts, key=lambda part: part.ids[:1].tolist())
    return reduce(lambda a, b: a.merge(b), ordered)


class DistributionMetric(Metric, Generic[P]):
    """Compares the distributions of real and fake pictures' features.

    `update` takes batches of features or, with an extractor, whatever that takes. In `torch.distributed`, `compute`
    works on all ranks' samples. Elsewhere, `state` on each worker and `merge` on one do the same.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        space: FeatureSpace,
        extractor: Callable[[Any], Tensor | Float[np.ndarray, "N D"]] | None = None,
        **kwargs: Any,
    ) -> None:
        """`extractor` makes features [N, D] of what `update` is given; `kwargs` are torchmetrics' own."""
        super().__init__(**kwargs)
        self.space = space
        self.extractor = extractor
        for side in SIDES:
            self.add_state(f"{side}_ids", [], dist_reduce_fx="cat")
            self._declare(side)

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in a report, which tells the extractor."""

    @property
    def setting(self) -> str:
        """Name and hash of the network, as in the metrics of single samples."""
        return setting_of(self.space)

    @abstractmethod
    def _declare(self, side: Side) -> None:
        """Name the states of a side, ids apart, to torchmetrics."""

    @abstractmethod
    def _add(self, side: Side, samples: Samples) -> None:
        """Take in a batch."""

    @abstractmethod
    def _held(self, side: Side) -> P:
        """What was taken in, from this process or, while torchmetrics has them in sync, from all."""

    @abstractmethod
    def _hold(self, side: Side, part: P) -> None:
        """Replace what was taken in."""

    def update(self, inputs: Any, real: bool, ids: Ids | None = None) -> None:
        """Take in a batch of one side.

        Args:
            inputs: Features [N, D], or what the extractor takes.
            real: Which side they belong to.
            ids: A name or number per sample, unique on its side. An id that was seen counts once.

        Raises:
            DataError: The features are not of this metric's space, are not finite, or contradict their ids.
        """
        features = inputs if self.extractor is None else self.extractor(inputs)
        self._add("real" if real else "fake", Samples.of(self.space, features, ids))

    def state(self) -> DistributionState[P]:
        """All that this metric has seen, without its extractor."""
        return DistributionState(self._held("real"), self._held("fake"))

    def merge(self, *states: DistributionState[P]) -> None:
        """Take in what others saw. Given all at once, their order does not matter, not even to the last bit.

        Raises:
            DataError: A state comes from another extractor, preprocessing or dtype.
        """
        for state in states:
            for part in (state.real, state.fake):
                if type(part) is not type(self._held("real")):
                    raise DataError(f"{type(self).__name__} cannot merge a state of {type(part).__name__}")
                self.space.require_same(part.space)
        whole = merged_states([self.state(), *states])
        self._hold("real", whole.real)
        self._hold("fake", whole.fake)
        # torchmetrics would go on to return what it computed before, and warn that nothing was ever taken in.
        self._computed = None
        self._update_count += len(states)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Torchmetrics' own way in, for metrics only: its bare dicts do not say what their features are of."""
        if not isinstance(incoming_state, DistributionMetric):
            raise DataError(
                f"cannot merge a {type(incoming_state).__name__}; give the other metric, or its state() to merge()"
            )
        self.merge(incoming_state.state())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a batch of one side has no figure of its own."""
        raise DataError(f"{type(self).__name__} has no value per batch; call update() for each and compute() once")

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value or a list of them, by default what `compute` returns; needs matplotlib."""
        return relabelled(self._plot(val, ax), self.name)

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    def _ids_of(self, side: Side) -> Int64[np.ndarray, " N"]:
        return np.asarray(_joined(getattr(self, f"{side}_ids"), torch.zeros(0, dtype=torch.int64)).cpu().numpy())

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # A rank without samples must bring empty lists of the right shape, or the others wait for it or fail.
        for side in SIDES:
            nothing = Samples.empty(self.space)
            for key, value in (("ids", nothing.ids), ("features", nothing.features)):
                if getattr(self, f"{side}_{key}", None) == []:
                    setattr(self, f"{side}_{key}", [torch.tensor(value, device=self.device)])
        super()._sync_dist(*args, **kwargs)


class SampleMetric(DistributionMetric[Samples]):
    """A metric that needs all features: 4 N D bytes a side, so some 400 MB for 50,000 pictures of 2,048 features."""

    def _declare(self, side: Side) -> None:
        self.add_state(f"{side}_features", [], dist_reduce_fx="cat")

    def _add(self, side: Side, samples: Samples) -> None:
        getattr(self, f"{side}_ids").append(torch.tensor(samples.ids, device=self.device))
        getattr(self, f"{side}_features").append(torch.tensor(samples.features, device=self.device))

    def _held(self, side: Side) -> Samples:
        nothing = Samples.empty(self.space)
        features = _joined(getattr(self, f"{side}_features"), torch.tensor(nothing.features))
        return Samples.in_order(self.space, self._ids_of(side), features.cpu().numpy())

    def _hold(self, side: Side, part: Samples) -> None:
        setattr(self, f"{side}_ids", [torch.tensor(part.ids, device=self.device)])
        setattr(self, f"{side}_features", [torch.tensor(part.features, device=self.device)])

    def features(self, side: Side, at_least: int) -> Float[np.ndarray, "N D"]:
        """One side's features in float64, in the order of ids.

        Raises:
            DataError: There are fewer than `at_least`.
        """
        x = self._held(side).features.astype(np.float64)
        if len(x) < at_least:
            raise DataError(f"{self.name} needs {at_least} or more {side} samples, there are {len(x)}")
        return x


def _joined(value: Tensor | list[Tensor], nothing: Tensor) -> Tensor:
    # torchmetrics holds a list of batches, and one tensor while ranks are in sync.
    if isinstance(value, Tensor):
        return value
    return torch.cat(value) if value else nothing
