"""A report as an evaluation writes it, with pictures that are as good as its figures say, in a second or two."""

import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from nigaoe.core.reports import (
    Cell,
    Check,
    Comparison,
    Control,
    Estimate,
    Metric,
    Report,
    SizePoint,
    Sweep,
    judge_threshold,
)
from nigaoe.core.toy.people import ATTRIBUTES, STYLES, Identity, Style, sample_identity, sample_scene
from nigaoe.core.toy.render import render
from nigaoe.eval.bootstrap import GroupBootstrap
from nigaoe.eval.metrics.comparing import compare
from nigaoe.eval.metrics.pairing import pair_control
from nigaoe.eval.pages.page import write_page
from nigaoe.eval.protocols.protocol import Column, Headline
from nigaoe.eval.running.gallery import Gallery, thumbnail
from nigaoe.eval.running.tables import WRONG, SampleTable

SCALES = (0.25, 0.5, 0.75, 1.0, 1.5)
_USUAL = 1.0
_METRICS = {
    **{
        f"attribute.{name}": Metric(
            title=name.replace("_", " "), higher_is_better=True, is_share=True, setting="judge 5c3a"
        )
        for name in ATTRIBUTES
    },
    "attribute.mean": Metric(title="attributes kept", higher_is_better=True, is_share=True, setting="judge 5c3a"),
    "judged_anime": Metric(title="judged anime", is_share=True, setting="judge 5c3a"),
    "clip_t": Metric(title="CLIP-T", higher_is_better=True, setting="toy/clip 81f0"),
    "clip_i": Metric(title="CLIP-I", higher_is_better=True, setting="toy/clip 81f0"),
    "dino_i": Metric(title="DINO-I", higher_is_better=True, setting="toy/dino 77aa"),
    "lpips": Metric(title="LPIPS", higher_is_better=False, setting="vgg16 90cd"),
    "fd_clip": Metric(title="FD (clip)", higher_is_better=False, is_per_sample=False),
    "fd_infinity_clip": Metric(title="FD, endless samples (clip)", higher_is_better=False, is_per_sample=False),
    "kd_clip": Metric(title="KD (clip)", higher_is_better=False, is_per_sample=False),
    "precision_clip": Metric(title="precision (clip)", higher_is_better=True, is_per_sample=False),
    "recall_clip": Metric(title="recall (clip)", higher_is_better=True, is_per_sample=False),
}  # fmt: skip


@dataclass(frozen=True)
class PageInputs:
    """All that the page is written from."""

    report: Report
    columns: list[Column]
    caption: str
    headlines: list[Headline]
    rows: list[str]
    tables: dict[str, SampleTable]
    gallery: Gallery

    def write(self, out: Path) -> str:
        """The page's HTML."""
        out.mkdir(parents=True, exist_ok=True)
        inputs = (self.columns, self.caption, self.headlines, self.rows, self.tables, self.gallery)
        write_page(out, self.report, *inputs)
        return (out / "report.html").read_text(encoding="utf-8")


@dataclass(frozen=True)
class _System:
    """What a cell's pictures are like."""

    cell: Cell
    style: Style
    keeps: float
    """Of each attribute of the person."""
    obeys: float
    failed: tuple[int, ...] = ()


def toy_page_inputs(people: int = 24, side_px: int = 96, seed: int = 3) -> PageInputs:
    """Two bases, two adapters, a sweep of one of them, ceilings, and a folder of which three samples are missing."""
    systems = _systems(people)
    rng = random.Random(seed)
    persons = [sample_identity(rng) for _ in range(people)]
    ids = [f"{i:06d}" for i in range(people)]
    references = {
        i: thumbnail(render(p, sample_scene(rng), "photo", side_px)) for i, p in zip(ids, persons, strict=True)
    }
    tables, pictures, cells = {}, {}, []
    for k, system in enumerate(systems):
        name, drawn = (
            system.cell.name,
            [_redrawn(p, system, random.Random(f"{seed}/{i}")) for i, p in enumerate(persons)],
        )
        tables[name] = _table(system, ids, persons, drawn, np.random.default_rng([seed, k]))
        cells.append(_scored(system, tables[name], k))
        if "@" not in name:
            scenes = [sample_scene(random.Random(f"{seed}/scene/{i}")) for i in range(people)]
            pictures[name] = {
                i: thumbnail(render(person, scene, system.style, side_px))
                for i, person, scene in zip(ids, drawn, scenes, strict=True)
                if i not in tables[name].failed
            }
    return PageInputs(
        report=_report(cells, tables),
        columns=_columns(cells),
        caption="Each row is a person whom no model has seen. Rows are the first; none was selected.",
        headlines=_headlines(),
        rows=ids[:4],
        tables=tables,
        gallery=Gallery(references, pictures),
    )


def _systems(n: int) -> list[_System]:
    def cell(name: str, title: str, **values: object) -> Cell:
        bare: dict[str, object] = {
            "base": None,
            "adapter": None,
            "prompt": "a photo of a person",
            "n": n,
            "metrics": {},
        }
        return Cell.model_validate({"name": name, "title": title, **bare, **values})

    found = [
        _System(cell("real-photo", "Ceiling: another photo of the person"), "photo", 1.0, 0.9),
        _System(cell("real-anime", "Ceiling: the person, drawn"), "anime", 1.0, 0.9),
    ]
    for style in STYLES:
        base = f"toy/{style}"
        title = f"{style.capitalize()} base"
        prompt = f"a {style} of a person"
        found.append(_System(cell(f"{style}-none", f"{title}, no adapter", base=base, prompt=prompt), style, 0.1, 0.8))
        for adapter, keeps in (("first", 0.9), ("plus", 0.75)):
            for scale in (_USUAL, *(SCALES if adapter == "first" else ())):
                if scale == _USUAL and found[-1].cell.adapter == adapter:
                    continue
                suffix = "" if scale == _USUAL else f"@{scale:g}"
                words = "" if scale == _USUAL else f", scale {scale:g}"
                shown = cell(
                    f"{style}-{adapter}{suffix}",
                    f"{title}, adapter {adapter!r}{words}",
                    base=base,
                    adapter=adapter,
                    scale=scale,
                    prompt=prompt,
                )
                found.append(_System(shown, style, keeps * min(scale, 1.0), 0.8 - 0.12 * scale**1.6))
    made = cell("elsewhere", "Folder 'elsewhere', like 'anime-first'", cut_prompts=2, target="elsewhere")
    return [*found, _System(made, "anime", 0.55, 0.75, failed=(1, 4, 7))]


def _redrawn(person: Identity, system: _System, rng: random.Random) -> Identity:
    """The person as far as the system keeps it; who loses an attribute at one scale loses it at each lower one."""
    other = asdict(sample_identity(rng))
    kept = {name: value if rng.random() < system.keeps else other[name] for name, value in asdict(person).items()}
    return replace(person, **kept)


def _table(
    system: _System, ids: list[str], persons: list[Identity], drawn: list[Identity], rng: np.random.Generator
) -> SampleTable:
    right = np.array([p.labels() for p in persons]) == np.array([d.labels() for d in drawn])
    likeness, n = right.mean(axis=1), len(ids)
    columns = {f"attribute.{name}": right[:, i].astype(float) for i, name in enumerate(ATTRIBUTES)}
    columns["attribute.mean"] = likeness
    columns["judged_anime"] = np.full(n, float(system.style == "anime"))
    # The bases lie apart, as an anime picture's likeness to a photo does.
    offset = 0.06 if system.style == "anime" else 0.0
    columns["clip_i"] = 0.55 - offset + 0.4 * likeness + rng.normal(0, 0.02, n)
    columns["dino_i"] = 0.35 - offset + 0.5 * likeness + rng.normal(0, 0.04, n)
    columns["clip_t"] = 0.12 + 0.2 * system.obeys + offset / 3 + rng.normal(0, 0.012, n)
    columns["lpips"] = 0.7 - 0.3 * likeness + rng.normal(0, 0.03, n)
    for k in range(3):
        columns[f"clip_i{WRONG}{k}"] = 0.55 - offset + 0.4 * rng.permutation(0.3 * likeness) + rng.normal(0, 0.02, n)
        columns[f"clip_t{WRONG}{k}"] = columns["clip_t"] - 0.05 + rng.normal(0, 0.02, n)
    failed = {ids[i]: "the file is cut short: image file is truncated (7 bytes not processed)" for i in system.failed}
    for values in columns.values():
        values[list(system.failed)] = np.nan
    return SampleTable(tuple(ids), tuple(ids), columns, failed)


def _scored(system: _System, table: SampleTable, k: int) -> Cell:
    kept = [i for i, name in enumerate(table.ids) if name not in table.failed]
    bootstrap = GroupBootstrap([table.groups[i] for i in kept])
    metrics = {
        name: bootstrap.estimate(table.columns[name][kept][:, None]) for name in _METRICS if name in table.columns
    }
    far, n = 4 + 30 * (1 - system.keeps) + k / 3, len(kept)
    metrics["fd_clip"] = Estimate(value=far + 120 / n, n=n)
    metrics["fd_infinity_clip"] = Estimate(value=far, n=n)
    metrics["kd_clip"] = Estimate(value=far / 4000, n=n, low=far / 5000, high=far / 3000)
    metrics["precision_clip"] = Estimate(value=0.9 - far / 100, n=n)
    metrics["recall_clip"] = Estimate(value=0.8 - far / 80, n=n)
    sizes = sorted({max(2, n * part // 8) for part in range(2, 9)})
    controls = {}
    for name in ("clip_i", "clip_t"):
        control = pair_control(name, table.columns[name], table.wrong(name), table.groups)
        assert control.gap is not None
        controls[name] = Control(
            matched=control.matched,
            shuffled=control.shuffled,
            auc=control.auc,
            gap=control.gap,
            n_wrong=control.n_shuffled,
            is_broken=control.is_broken,
        )
    curve = [SizePoint(n=size, distance=far + 120 / size) for size in sizes]
    changes = {"metrics": metrics, "controls": controls, "size_curves": {"fd_clip": curve}, "failed": table.failed}
    return system.cell.model_copy(update=changes)


def _report(cells: list[Cell], tables: dict[str, SampleTable]) -> Report:
    pairs = [(f"{s}-{a}", f"{s}-none") for s in ("photo", "anime") for a in ("first", "plus")]
    pairs += [("photo-plus", "photo-first"), ("anime-plus", "anime-first"), ("anime-first", "photo-first")]
    pairs += [("elsewhere", "anime-first")]
    by_name = {cell.name: cell for cell in cells}
    sweeps = [
        Sweep(
            title=by_name[f"{s}-first"].title, cells=[f"{s}-first" + ("" if x == _USUAL else f"@{x:g}") for x in SCALES]
        )
        for s in ("photo", "anime")
    ]
    return Report(
        title="Two adapters on two bases",
        notes=["24 pictures per cell; 30 DDIM steps, guidance 5, adapter scale 1, bfloat16, seed 3."],
        flags=["Folder 'elsewhere': 3 of 24 samples have no picture, such as '000001' (cut short)."],
        provenance={"base toy/photo": "81f06a2b", "adapter first": "toy/adapter 5c3a90cd", "nigaoe": "0.1.0"},
        metrics=_METRICS,
        checks=[
            Check(name="identical pictures score 1", passed=True, detail="CLIP-I of a picture with itself is 1.0000."),
            Check(name="float and uint8 agree", passed=False, detail="CLIP-I differs by 0.31."),
            Check(name="faces are told apart", passed=None, detail="No face encoder was given."),
        ],
        cells=cells,
        comparisons=[c for cell, other in pairs for c in _compared(cell, other, tables)],
        sweeps=sweeps,
        thresholds=[
            judge_threshold(by_name["photo-first"], "attribute.mean", ">=", 0.8),
            judge_threshold(by_name["anime-plus"], "clip_i", ">=", 0.99),
        ],
    )  # fmt: skip


def _compared(cell: str, baseline: str, tables: dict[str, SampleTable]) -> list[Comparison]:
    found = []
    for name, metric in _METRICS.items():
        if metric.higher_is_better is None or not metric.is_per_sample:
            continue
        seen = compare(tables[baseline].items(name, metric), tables[cell].items(name, metric))
        found.append(
            Comparison(
                cell=cell,
                baseline=baseline,
                metric=name,
                difference=seen.difference,
                p=seen.p,
                n_groups=seen.n_groups,
                is_better=seen.second_is_better,
            )
        )
    return found


def _columns(cells: list[Cell]) -> list[Column]:
    titles = {cell.name: cell.title for cell in cells}
    shown = ("photo-none", "photo-first", "anime-none", "anime-first", "anime-plus", "elsewhere")
    drawn = [Column(titles[name], name) for name in shown]
    return [Column("Reference photo", None), *drawn, Column("Truth: the person, drawn", "real-anime")]


def _headlines() -> list[Headline]:
    mean = "attribute.mean"
    return [
        Headline(f"Likeness, {s} base", f"{s}-first", mean, (("without adapter", f"{s}-none", mean),))
        for s in ("photo", "anime")
    ] + [Headline("CLIP-I, anime base", "anime-first", "clip_i", is_share=False)]
