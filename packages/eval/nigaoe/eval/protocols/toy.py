"""The toy world's protocol: held-out people, photographed once; who comes out, in which style, on which background?"""

import random
from dataclasses import replace

from nigaoe.core.toy.people import MEDIUM, STYLES, Identity, Style, sample_identity_of, sample_scene
from nigaoe.core.toy.render import render
from nigaoe.eval.config import EvalConfig, ToyProtocolConfig
from nigaoe.eval.protocols.protocol import CellPlan, Column, Headline, Sample
from nigaoe.eval.protocols.targets import with_scales, with_targets
from nigaoe.eval.scoring.judge import RED

_OFF_RED = "reference not on red"
_REFERENCES = "references"


class ToyProtocol:
    """Ceilings without a UNet, bases without an adapter, and every adapter on both bases."""

    def __init__(self, config: ToyProtocolConfig, run: EvalConfig) -> None:
        """The first of the run's adapters is the one under test and gives its cells plain names."""
        self.config, self.run, self.adapters, self.seed = config, run, list(run.adapters), run.seed
        self._bases: dict[Style, str] = {"photo": config.photo_base, "anime": config.anime_base}

    def cells(self) -> list[CellPlan]:
        cells = [*self._real(), *self._ceilings()]
        for style in STYLES:
            cells.append(self._drawn(style, None))
            demands = (False, True) if self.config.obedience else (False,)
            cells += [self._drawn(style, adapter, red=red) for red in demands for adapter in self.adapters]
        return with_targets(with_scales(cells, self.run.sampling.scales), self.run)

    def _real(self) -> list[CellPlan]:
        n = self.config.yardstick_n
        yardsticks = [
            CellPlan(f"train-{s}", f"{s.capitalize()} pictures of training people", "yardstick", n, variant=s)
            for s in STYLES
        ]
        return [CellPlan(_REFERENCES, "Reference photos", "references", self.config.n), *yardsticks]

    def _ceilings(self) -> list[CellPlan]:
        n, cells = self.config.n, []
        for style in STYLES:
            plain = CellPlan(
                f"real-{style}",
                "",
                "picture",
                n,
                prompt=_prompt(style),
                yardstick=f"train-{style}",
                references=_REFERENCES,
                variant=style,
            )
            title = f"another {style} of the person" if style == "photo" else "the person, drawn"
            cells.append(replace(plain, title=f"Ceiling: {title}"))
            title = f"Ceiling: {title}, through the autoencoder"
            cells.append(
                replace(plain, name=f"vae-{style}", title=title, source="reconstruction", base=self._bases[style])
            )
        return cells

    def _drawn(self, style: Style, adapter: str | None, red: bool = False) -> CellPlan:
        return CellPlan(
            name=self._name(style, adapter, red),
            title=f"{style.capitalize()} base, {self._words(adapter)}{', asked for a red background' if red else ''}",
            source="generation",
            n=self.config.n,
            base=self._bases[style],
            adapter=adapter,
            scale=None if adapter is None else self.run.sampling.adapter_scale,
            prompt=_prompt(style, red),
            yardstick=f"train-{style}",
            # Off red, some have a reference of another scene.
            references=None if red else _REFERENCES,
            variant=_OFF_RED if red else "",
        )

    def _name(self, style: Style, adapter: str | None, red: bool = False) -> str:
        kind = "none" if adapter is None else "red" if red else "adapter"
        return f"{style}-{kind}" + (f"-{adapter}" if adapter in self.adapters[1:] else "")

    def _words(self, adapter: str | None) -> str:
        if adapter is None:
            return "no adapter"
        return "adapter" if len(self.adapters) == 1 else f"adapter {adapter!r}"

    def sample(self, cell: CellPlan, index: int) -> Sample:
        if cell.source == "yardstick":
            return self._yardstick_sample(cell, index)
        rng = self._rng(index)
        identity, scene = sample_identity_of("heldout", rng), sample_scene(rng)
        while cell.variant == _OFF_RED and scene.background == RED:
            # On red already, copying the reference would look like obeying the prompt.
            scene = sample_scene(rng)
        picture, reference = None, render(identity, scene, "photo")
        if cell.source == "references":
            picture = reference
        elif cell.source in ("picture", "reconstruction"):
            other = sample_scene(random.Random(f"eval/{self.seed}/{index}/other"))
            picture = render(identity, other, "anime" if cell.variant == "anime" else "photo")
        return Sample(_id(index), _group(identity), reference, cell.prompt or "", picture, identity, scene.background)

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"eval/{self.seed}/{index}")

    def _yardstick_sample(self, cell: CellPlan, index: int) -> Sample:
        rng = random.Random(f"eval/{self.seed}/yardstick/{index}")
        identity, scene = sample_identity_of("train", rng), sample_scene(rng)
        picture = render(identity, scene, "anime" if cell.variant == "anime" else "photo")
        return Sample(_id(index), _group(identity), picture, "", picture)

    def group(self, cell: CellPlan, index: int) -> str:
        return _group(sample_identity_of("heldout", self._rng(index)))

    def sample_id(self, cell: CellPlan, index: int) -> str:
        return _id(index)

    def prompt(self, cell: CellPlan, index: int) -> str:
        return cell.prompt or ""

    def reference_index(self, cell: CellPlan, index: int) -> int:
        return index

    def identify(self, cell: CellPlan, index: int) -> str:
        return f"toy/{self.seed}/{index}"

    def grid_rows(self, count: int) -> list[int]:
        rows = []
        for index in range(self.config.n):
            rng = self._rng(index)
            sample_identity_of("heldout", rng)
            if sample_scene(rng).background != RED:
                rows.append(index)
        return rows[:count]

    def grid_columns(self) -> list[Column]:
        columns = [Column("Reference photo", None), Column("Photo base, no adapter", "photo-none")]
        tested = self.adapters[:1]
        columns += [Column(f"Photo base, {self._words(a)}", self._name("photo", a)) for a in tested]
        columns += [Column("Anime base, no adapter", "anime-none")]
        columns += [Column(f"Anime base, {self._words(a)}", self._name("anime", a)) for a in self.adapters]
        if self.config.obedience:
            columns += [Column("Anime base, “on a red background”", self._name("anime", a, red=True)) for a in tested]
        made = [Column(cell.title, cell.name) for cell in self.cells() if cell.target]
        return [*columns, *made, Column("Truth: the person, drawn", "real-anime")]

    def grid_caption(self) -> str:
        return (
            "Each row is a person whom no model has seen. The adapter looks at the reference, the prompt says only "
            f"“{_prompt('photo')}” or “{_prompt('anime')}”. Rows are the first whose reference is not "
            "itself on red; none was selected. Pictures of a row share their noise. The last column shows how the "
            "toy world itself draws the person, in another pose and scene."
        )

    def headlines(self) -> list[Headline]:
        if not self.adapters:
            return []
        mean, anime = "attribute.mean", "anime-adapter"
        lines = [
            Headline(
                f"Likeness, {style} base",
                f"{style}-adapter",
                mean,
                (("without adapter", f"{style}-none", mean), ("ceiling", f"vae-{style}", mean)),
            )
            for style in STYLES
        ]
        for name in self.adapters[1:]:
            lines.append(Headline(f"Likeness, anime base, adapter {name!r}", self._name("anime", name), mean))
        unadapted = (("without adapter", "anime-none", "judged_anime"),)
        unasked, chance = (("unasked", anime, "background_red"),), (("by chance", anime, "background_chance"),)
        return [
            *lines,
            Headline("Still drawn as anime", anime, "judged_anime", unadapted),
            *([Headline("Red background when asked", "anime-red", "background_red", unasked)] * self.config.obedience),
            Headline("Background copied", anime, "background_copied", chance),
        ]


def _prompt(style: Style, red: bool = False) -> str:
    return f"{MEDIUM[style]} a person" + (" on a red background" if red else "")


def _id(index: int) -> str:
    return f"{index:06d}"


def _group(identity: Identity) -> str:
    return "-".join(str(label) for label in identity.labels())
