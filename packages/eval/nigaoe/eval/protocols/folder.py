"""A folder of reference pictures times a list of prompts, on bases and adapters of any origin, or drawn elsewhere."""

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

from nigaoe.core.errors import DataError
from nigaoe.core.images import read_image, require_picture
from nigaoe.eval.config import EvalConfig, FolderProtocolConfig
from nigaoe.eval.protocols.protocol import DRAWN, REAL, CellPlan, Column, Headline, Sample
from nigaoe.eval.protocols.targets import with_scales, with_targets
from nigaoe.eval.scoring.weights import file_fingerprint

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_REFERENCES = "references"
_PICTURES = 64
"""In memory at a time; samples that follow one another share their reference."""


class FolderProtocol:
    """Every base without an adapter and with each; sample i is prompt i mod P for reference i // P.

    Pictures of one person lie in a folder of the person's name; a picture beside such folders is somebody by itself.
    """

    def __init__(self, config: FolderProtocolConfig, run: EvalConfig) -> None:
        """Lists the folder; `identify` looks at every file once.

        Raises:
            DataError: The folder is missing or holds fewer than two pictures.
        """
        self.config, self.run, self.adapters = config, run, list(run.adapters)
        self.root = config.references.resolve()
        self.paths = _list_pictures(config.references)
        self._read = lru_cache(maxsize=_PICTURES)(read_image)

    def cells(self) -> list[CellPlan]:
        cells = [CellPlan(_REFERENCES, "References", "references", len(self.paths))]
        if self._others:
            title, n = "Ceiling: another photo of the person", len(self._others)
            cells.append(CellPlan("real", title, "picture", n, yardstick=_REFERENCES, references=_REFERENCES))
        usual = CellPlan(
            name="",
            title="",
            source="generation",
            n=len(self.paths) * len(self.config.prompts),
            prompt=self.config.prompts[0] if len(self.config.prompts) == 1 else None,
            yardstick=_REFERENCES,
            references=_REFERENCES,
        )
        for base_name, base in self.config.bases.items():
            for adapter in (None, *self.adapters):
                words = "no adapter" if adapter is None else f"adapter {adapter!r}"
                cells.append(
                    replace(
                        usual,
                        name=f"{base_name}-{adapter or 'none'}",
                        title=f"Base {base_name!r}, {words}",
                        base=base,
                        adapter=adapter,
                        scale=None if adapter is None else self.run.sampling.adapter_scale,
                    )
                )
        return with_targets(with_scales(cells, self.run.sampling.scales), self.run, usual)

    def sample(self, cell: CellPlan, index: int) -> Sample:
        path, prompt = self._row(cell, index)
        image, picture = self._read(path), None
        if cell.source in REAL:
            picture = image
        elif cell.source == "picture":
            picture = self._read(self._others[index][1])
        return Sample(self.sample_id(cell, index), self.group(cell, index), image, prompt, picture)

    def group(self, cell: CellPlan, index: int) -> str:
        path, _ = self._row(cell, index)
        return self._name(path if path.parent == self.root else path.parent)

    def prompt(self, cell: CellPlan, index: int) -> str:
        return self._row(cell, index)[1]

    def identify(self, cell: CellPlan, index: int) -> str:
        path, prompt = self._row(cell, index)
        return f"{self._hashes[path]} {prompt}"

    def reference_index(self, cell: CellPlan, index: int) -> int:
        if cell.source == "picture":
            return self._places[self._others[index][0]]
        return index if cell.source in REAL else index // len(self.config.prompts)

    @cached_property
    def _places(self) -> dict[Path, int]:
        return {path: place for place, path in enumerate(self.paths)}

    @cached_property
    def _others(self) -> list[tuple[Path, Path]]:
        """Pictures of people who have several, each with the person's next one."""
        people: dict[Path, list[Path]] = {}
        for path in self.paths:
            if path.parent != self.root:
                people.setdefault(path.parent, []).append(path)
        return [
            (path, pictures[(i + 1) % len(pictures)])
            for pictures in people.values()
            if len(pictures) > 1
            for i, path in enumerate(pictures)
        ]

    def sample_id(self, cell: CellPlan, index: int) -> str:
        path, _ = self._row(cell, index)
        name = self._name(path).replace("/", "__")
        return f"{name}-{index % len(self.config.prompts):03d}" if cell.source in DRAWN else name

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _row(self, cell: CellPlan, index: int) -> tuple[Path, str]:
        if cell.source in REAL:
            return self.paths[index], ""
        if cell.source == "picture":
            return self._others[index][0], ""
        prompts = self.config.prompts
        return self.paths[index // len(prompts)], prompts[index % len(prompts)]

    @cached_property
    def _hashes(self) -> dict[Path, str]:
        # Once per run: workers, who have a protocol each, ask for no hash.
        # Nor is a picture decoded twice for that: one that only seems whole is named
        # by the worker that decodes it, which ends the run; what was computed is kept.
        for path in self.paths:
            require_picture(path)
        return {path: file_fingerprint(path) for path in self.paths}

    def grid_rows(self, count: int) -> list[int]:
        return [i * len(self.config.prompts) for i in range(min(count, len(self.paths)))]

    def grid_columns(self) -> list[Column]:
        drawn = [cell for cell in self.cells() if cell.source in DRAWN and "@" not in cell.name]
        return [Column("Reference", None), *(Column(cell.title, cell.name) for cell in drawn)][:8]

    def grid_caption(self) -> str:
        noise = " Pictures of a row share their noise." if self.config.bases else ""
        return (
            f"Each row is a reference picture, the first of the folder in order of their names; the prompt is "
            f"“{self.config.prompts[0]}”.{noise}"
        )

    def headlines(self) -> list[Headline]:
        lines = []
        for base in self.config.bases:
            for adapter in self.adapters:
                cell, none = f"{base}-{adapter}", f"{base}-none"
                unlike = (("without adapter", none, "clip_i"),)
                lines.append(Headline(f"CLIP-I, {base}, {adapter}", cell, "clip_i", unlike, is_share=False))
                unadapted = (("without adapter", none, "clip_t"),)
                lines.append(Headline(f"CLIP-T, {base}, {adapter}", cell, "clip_t", unadapted, is_share=False))
        if not self.config.bases:
            pairs = [(name, word) for name in (*self.run.folders, *self.run.servers) for word in ("i", "t")]
            lines += [Headline(f"CLIP-{w.upper()}, {name}", name, f"clip_{w}", is_share=False) for name, w in pairs]
        return lines


def _list_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"references folder {str(folder)!r} does not exist; give a folder of JPEG, PNG or WebP files")
    # One folder deep: a folder is a person.
    there = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix.lower() in _SUFFIXES]
    paths = sorted(folder.resolve() / path.relative_to(folder) for path in there)
    if len(paths) < 2:
        raise DataError(f"references folder {str(folder)!r} holds {len(paths)} pictures; give 2 or more")
    return paths
