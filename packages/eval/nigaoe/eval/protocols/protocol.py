"""What a protocol is: cells, and for each cell the same list of samples whoever asks."""

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from nigaoe.core.toy.people import Identity

Source = Literal["picture", "reconstruction", "generation", "yardstick"]
"""Where a cell's pictures come from: as they are, through the autoencoder, out of the UNet; or only features count."""


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
    prompt: str | None = None
    """None: prompts differ from sample to sample."""
    yardstick: str | None = None
    """The cell of source `yardstick` that its Frechet distance is taken to."""
    variant: str = ""
    """What else its samples depend on; the protocol knows."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture to be made and judged."""

    group: str
    """The unit of the bootstrap: an identity, a reference."""
    reference: Image.Image
    prompt: str
    picture: Image.Image | None = None
    """The picture itself, where no UNet makes it."""
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
        """All cells; yardsticks too."""

    def sample(self, cell: CellPlan, index: int) -> Sample:
        """Sample `index` of a cell: a function of the config alone."""

    def identify(self, cell: CellPlan, index: int) -> str:
        """Everything that a sample is made from, in words or hashes; cheap."""

    def metrics(self, cell: CellPlan) -> list[str]:
        """Names of the figures that a cell will have."""

    def grid_rows(self, count: int) -> list[int]:
        """Samples to show: the first ones, never the best ones."""

    def grid_columns(self) -> list[Column]:
        """What to show of each."""

    def grid_caption(self) -> str:
        """How the rows were chosen, and what the columns are."""

    def headlines(self) -> list[Headline]:
        """What to say first."""


def row_seed(seed: int, index: int) -> int:
    """Seed of a sample's noise: tied to the sample, not to who draws it; equal across cells, so that they pair up."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 1
