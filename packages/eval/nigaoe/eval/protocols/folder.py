"""A folder of reference pictures times a list of prompts. Attributes are unknown, so CLIP alone judges."""

from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from nigaoe.core.errors import DataError
from nigaoe.core.images import read_image
from nigaoe.eval.config import FolderProtocolConfig
from nigaoe.eval.protocols.protocol import CellPlan, Column, Headline, Sample
from nigaoe.eval.scoring.weights import file_fingerprint

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_YARDSTICK = "references"


class FolderProtocol:
    """Every base without an adapter and with each; sample i is prompt i mod P for reference i // P."""

    def __init__(self, config: FolderProtocolConfig, adapters: list[str], seed: int) -> None:
        """Lists the folder and reads every picture once.

        Raises:
            DataError: The folder is missing or holds fewer than two pictures.
            ImageError: A picture cannot be read.
        """
        self.config, self.adapters, self.seed = config, adapters, seed
        self.paths = _list_pictures(config.references)

    def cells(self) -> list[CellPlan]:
        cells = [CellPlan(_YARDSTICK, "References", "yardstick", len(self.paths))]
        for base_name, base in self.config.bases.items():
            for adapter in (None, *self.adapters):
                words = "no adapter" if adapter is None else f"adapter {adapter!r}"
                cells.append(
                    CellPlan(
                        name=f"{base_name}-{adapter or 'none'}",
                        title=f"Base {base_name!r}, {words}",
                        source="generation",
                        n=len(self.paths) * len(self.config.prompts),
                        base=base,
                        adapter=adapter,
                        prompt=self.config.prompts[0] if len(self.config.prompts) == 1 else None,
                        yardstick=_YARDSTICK,
                    )
                )
        return cells

    def sample(self, cell: CellPlan, index: int) -> Sample:
        path, prompt = self._row(cell, index)
        image = _read(path)
        return Sample(path.name, image, prompt, image if cell.source == "yardstick" else None)

    def identify(self, cell: CellPlan, index: int) -> str:
        path, prompt = self._row(cell, index)
        return f"{self._hashes[path]} {prompt}"

    def _row(self, cell: CellPlan, index: int) -> tuple[Path, str]:
        if cell.source == "yardstick":
            return self.paths[index], ""
        prompts = self.config.prompts
        return self.paths[index // len(prompts)], prompts[index % len(prompts)]

    @cached_property
    def _hashes(self) -> dict[Path, str]:
        return {path: file_fingerprint(path) for path in self.paths}

    def metrics(self, cell: CellPlan) -> list[str]:
        return ["clip_t", "clip_i", "clip_i_shuffled", "fd_clip"]

    def grid_rows(self, count: int) -> list[int]:
        return [i * len(self.config.prompts) for i in range(min(count, len(self.paths)))]

    def grid_columns(self) -> list[Column]:
        drawn = [cell for cell in self.cells() if cell.source == "generation"]
        return [Column("Reference", None), *(Column(cell.title, cell.name) for cell in drawn)][:8]

    def grid_caption(self) -> str:
        return (
            f"Each row is a reference picture, the first of the folder in order of their names; the prompt is "
            f"“{self.config.prompts[0]}”. Pictures of a row share their noise."
        )

    def headlines(self) -> list[Headline]:
        lines = []
        for base in self.config.bases:
            for adapter in self.adapters:
                cell, none = f"{base}-{adapter}", f"{base}-none"
                controls = ("without adapter", none, "clip_i"), ("wrong reference", cell, "clip_i_shuffled")
                lines.append(Headline(f"CLIP-I, {base}, {adapter}", cell, "clip_i", controls, is_share=False))
                unadapted = (("without adapter", none, "clip_t"),)
                lines.append(Headline(f"CLIP-T, {base}, {adapter}", cell, "clip_t", unadapted, is_share=False))
        return lines


def _list_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"references folder {str(folder)!r} does not exist; give a folder of JPEG, PNG or WebP files")
    paths = sorted(path.resolve() for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if len(paths) < 2:
        raise DataError(f"references folder {str(folder)!r} holds {len(paths)} pictures; give 2 or more")
    for path in paths:
        read_image(path)
    return paths


@lru_cache(maxsize=64)
def _read(path: Path) -> Image.Image:
    return read_image(path)
