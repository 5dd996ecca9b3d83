"""What a protocol is: cells, and for each cell the same list of samples whoever asks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from nigaoe.core.toy.people import Identity

Source = Literal["yardstick", "references", "picture", "reconstruction", "generation", "folder", "server"]
"""Where a cell's pictures come from: real pictures of which features alone count, a yardstick or the references
themselves; pictures as they are, or through the autoencoder; out of the UNet, a folder, or a server."""

REAL: tuple[Source, ...] = ("yardstick", "references")
"""What is looked at first, and remembered from run to run."""
DRAWN: tuple[Source, ...] = ("generation", "folder", "server")
"""What a system made."""

STRANGERS = 4
"""Wrong partners of each sample."""
_AHEAD = 256
"""How far to look for one."""


@dataclass(frozen=True)
class CellPlan:
    """One condition to be evaluated."""

    name: str
    title: str
    source: Source
    n: int
    base: str | None = None
    """Draws, or reconstructs."""
    adapter: str | None = None
    scale: float | None = None
    """Of the adapter."""
    prompt: str | None = None
    """None: prompts differ from sample to sample."""
    yardstick: str | None = None
    """The cell of source `yardstick` that its distances are taken to."""
    references: str | None = None
    """The cell of source `references` whose sample i is the reference of this one's; None: they are looked at here."""
    variant: str = ""
    """What else its samples depend on; the protocol knows."""
    target: str | None = None
    """The folder or server that its pictures come from."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture to be made and judged."""

    id: str
    """Unique in its cell, and the same in every cell that asks for the same picture."""
    group: str
    """The unit of the bootstrap: an identity, a reference."""
    reference: Image.Image
    prompt: str
    picture: Image.Image | None = None
    """The picture itself, where no system makes it."""
    identity: Identity | None = None
    """Who the reference shows, if known."""
    background: int | None = None
    """Index of the reference's background, if known."""


@dataclass(frozen=True)
class Column:
    """A column of the picture grid."""

    title: str
    cell: str | None
    """None: the references."""


@dataclass(frozen=True)
class Headline:
    """A figure that a stranger should read first."""

    title: str
    cell: str
    metric: str
    beside: tuple[tuple[str, str, str], ...] = ()
    """(words, cell, metric) of figures to compare with."""
    is_share: bool = True
    """Shown in percent."""


class EvalProtocol(Protocol):
    """Everything that differs between the toy world and a folder of photos."""

    def cells(self) -> list[CellPlan]:
        """All cells; real pictures first."""

    def sample(self, cell: CellPlan, index: int) -> Sample:
        """Sample `index` of a cell: a function of the config alone."""

    def sample_id(self, cell: CellPlan, index: int) -> str:
        """Its id; cheap."""

    def group(self, cell: CellPlan, index: int) -> str:
        """Its group; cheap."""

    def prompt(self, cell: CellPlan, index: int) -> str:
        """Its prompt; cheap."""

    def identify(self, cell: CellPlan, index: int) -> str:
        """Everything that a sample is made from, in words or hashes; cheap."""

    def reference_index(self, cell: CellPlan, index: int) -> int:
        """Which sample of the cell `references` its reference is."""

    def grid_rows(self, count: int) -> list[int]:
        """Samples to show: the first ones, never the best ones."""

    def grid_columns(self) -> list[Column]:
        """What to show of each."""

    def grid_caption(self) -> str:
        """How the rows were chosen, and what the columns are."""

    def headlines(self) -> list[Headline]:
        """What to say first."""


def strangers(protocol: EvalProtocol, cell: CellPlan, index: int) -> list[int]:
    """The next samples whose references are other people's; fewer than `STRANGERS`, or none, where there are no others.

    The same ones whoever asks, and near, so that a shard seldom needs pictures from beyond it.
    """
    return _next_others(cell.n, index, lambda place: protocol.group(cell, place))


def of_other_words(protocol: EvalProtocol, cell: CellPlan, index: int) -> list[int]:
    """The same for prompts."""
    return _next_others(cell.n, index, lambda place: protocol.prompt(cell, place))


def _next_others(n: int, index: int, key: Callable[[int], str]) -> list[int]:
    own, found = key(index), dict[str, int]()
    for place in ((index + step) % n for step in range(1, min(n, _AHEAD))):
        word = key(place)
        if word != own and word not in found:
            found[word] = place
        if len(found) == STRANGERS:
            break
    return list(found.values())


def row_seed(seed: int, index: int) -> int:
    """Seed of a sample's noise: tied to the sample, not to who draws it; equal across cells, so that they pair up.

    Of 62 bits, which is as much as a server takes.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 2
