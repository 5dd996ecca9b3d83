"""What is drawn for a sample before its noise, in one order, whoever has the data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nigaoe.train.records.record import Record

Lookup = Callable[[np.ndarray], np.ndarray]
"""Values of a column at rows int64 [B]."""


class Choice(NamedTuple):
    """Of one sample."""

    caption: int
    view: int
    noise: Tensor
    """Of the posterior, float32 [C, h, w]."""
    reference: float
    """In [0, 1)."""


def choose(generator: torch.Generator, captions: int, views: int, shape: Sequence[int]) -> Choice:
    """Draw one of the captions, one of the views, a posterior sample of a shape, and which other picture prompts."""
    # In double precision no product with a count is ever rounded up to the count.
    caption = int(torch.rand((), generator=generator, dtype=torch.float64).item() * captions)
    view = int(torch.rand((), generator=generator, dtype=torch.float64).item() * views)
    noise = torch.randn(tuple(shape), generator=generator)
    return Choice(caption, view, noise, torch.rand((), generator=generator, dtype=torch.float64).item())


class People(NamedTuple):
    """Who is in which row, and which rows say themselves what prompts."""

    is_conditioned: Lookup
    """Whether the picture that prompts is the row's own, and no other can be."""
    identity: Lookup
    """Number of each row's identity."""
    by_identity: Lookup
    """Rows sorted by identity, int64 [N]."""
    first_of_identity: Lookup
    """Where each identity's rows start in there, int64 [identities + 1]."""

    def others(self, rows: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """For each row [B] another one of its identity whose picture prompts; `drawn` in [0, 1) decides which.

        The row itself where it says what prompts, and where it is the only one.
        """
        identity = self.identity(rows)
        start = self.first_of_identity(identity)
        count = self.first_of_identity(identity + 1) - start
        others = np.maximum(count - 1, 1)
        candidate = self.by_identity(start + np.minimum((drawn * others).astype(np.int64), others - 1))
        # The last of the identity stands in wherever the row drew itself: every other row is equally likely.
        other = np.where(candidate == rows, self.by_identity(start + count - 1), candidate)
        return np.where(self.is_conditioned(rows).astype(bool), rows, other)


def index_name(fingerprint: str) -> str:
    """File of the columns of `People` in a prepared folder; by the fingerprint, so that it is never of other shards."""
    return f"index-{fingerprint}.safetensors"


def people_columns(rows: Sequence[Record]) -> dict[str, np.ndarray]:
    """Columns of `People`."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.identity for row in rows))}
    identity = np.fromiter((numbers[row.identity] for row in rows), np.int64, len(rows))
    starts = np.concatenate([[0], np.bincount(identity, minlength=len(numbers)).cumsum()])
    return {
        "is_conditioned": np.fromiter((row.condition is not None for row in rows), np.uint8, len(rows)),
        "by_identity": identity.argsort(kind="stable").astype(np.int64),
        "first_of_identity": starts.astype(np.int64),
        "identity": identity,
    }
