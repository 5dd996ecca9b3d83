"""Several pictures of every sample, each from its own noise: 4 in the protocol of IP-Adapter (arXiv 2308.06721)."""

from dataclasses import dataclass, replace

from nigaoe.eval.protocols.protocol import DRAWN, CellPlan, Column, EvalProtocol, Headline, Sample


@dataclass(frozen=True)
class Repeated:
    """A protocol whose drawn cells have every sample `seeds` times in a row; real pictures stay as they are."""

    protocol: EvalProtocol
    seeds: int

    def cells(self) -> list[CellPlan]:
        return [replace(cell, n=cell.n * self._times(cell)) for cell in self.protocol.cells()]

    def sample(self, cell: CellPlan, index: int) -> Sample:
        return replace(self.protocol.sample(cell, self._place(cell, index)), id=self.sample_id(cell, index))

    def sample_id(self, cell: CellPlan, index: int) -> str:
        name = self.protocol.sample_id(cell, self._place(cell, index))
        again = index % self._times(cell)
        # The first has the plain name, under which ceilings and references have theirs.
        return f"{name}-{again}" if again else name

    def group(self, cell: CellPlan, index: int) -> str:
        return self.protocol.group(cell, self._place(cell, index))

    def prompt(self, cell: CellPlan, index: int) -> str:
        return self.protocol.prompt(cell, self._place(cell, index))

    def identify(self, cell: CellPlan, index: int) -> str:
        return f"{self.protocol.identify(cell, self._place(cell, index))} {index % self._times(cell)}"

    def reference_index(self, cell: CellPlan, index: int) -> int:
        return self.protocol.reference_index(cell, self._place(cell, index))

    def grid_rows(self, count: int) -> list[int]:
        return [row * self.seeds for row in self.protocol.grid_rows(count)]

    def grid_columns(self) -> list[Column]:
        return self.protocol.grid_columns()

    def grid_caption(self) -> str:
        return f"{self.protocol.grid_caption()} Of each sample the first of {self.seeds} pictures is shown."

    def headlines(self) -> list[Headline]:
        return self.protocol.headlines()

    def _times(self, cell: CellPlan) -> int:
        return self.seeds if cell.source in DRAWN else 1

    def _place(self, cell: CellPlan, index: int) -> int:
        return index // self._times(cell)
