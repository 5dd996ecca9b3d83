"""The mistakes that once made a baseline look good, made again: each is refused or flagged by name.

A table at the end has the figure that each would have led to, computed as the mistake computes it, beside the true one.
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.errors import DataError, ImageError
from nigaoe.core.reports import Report
from nigaoe.core.toy.people import sample_identity_of, sample_scene
from nigaoe.core.toy.render import render
from nigaoe.core.training_pictures import TrainingPictures, digest_of
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.findings.summary import make_report, tables_of
from nigaoe.eval.held_out import require_held_out
from nigaoe.eval.making.folder_pictures import METADATA
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.metrics.space import space_of
from nigaoe.eval.protocols.protocol import CellPlan
from nigaoe.eval.running.known import KnownReferences
from nigaoe.eval.running.merging import merge_cell
from nigaoe.eval.running.plan import Plan, make_plan
from nigaoe.eval.running.shards import ShardStore
from nigaoe.eval.running.worker import Findings, ShardWorker, WorkerSpec
from nigaoe.eval.scoring.clip import ClipScorer, cosines
from nigaoe.eval.scoring.pictures import picture
from recorded_runs import leave_run
from toy_people import People

N = 12
PROMPT = "a photo of a person"


class _Row(NamedTuple):
    mistake: str
    figure: str
    printed: float
    true: float
    said: str


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[list[_Row]]:
    """Takes a row of each test, and shows all at the end."""
    found = list[_Row]()
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    lines = [f"{'mistake':42} {'figure':10} {'printed':>9} {'true':>9}  what is said now"]
    lines += [f"{row.mistake:42} {row.figure:10} {row.printed:9.4f} {row.true:9.4f}  {row.said}" for row in found]
    with capture.global_and_fixture_disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


@dataclass(frozen=True)
class _Some:
    """A plan's protocol, less most of its cells."""

    whole: Any
    names: tuple[str, ...]

    def cells(self) -> list[CellPlan]:
        return [cell for cell in self.whole.cells() if cell.name in self.names]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def _narrowed(config: EvalConfig, *names: str) -> Plan:
    plan = make_plan(config)
    # Nothing to compare with is drawn.
    alone = config.model_copy(update={"folders": {}})
    tasks = [task for task in plan.tasks if task.cell.name in names]
    return replace(plan, config=alone, protocol=_Some(plan.protocol, names), tasks=tasks)


def _evaluated(config: EvalConfig, *names: str) -> Report:
    """A report of some cells alone, made as the job makes it."""
    plan, worker = _narrowed(config, *names), ShardWorker(WorkerSpec(config, {}, Path.cwd(), "cpu"))
    store = ShardStore(config.out / "shards", config.out / "cache")
    known = KnownReferences(plan, store)
    for task in plan.tasks:
        store.write(task, worker.evaluate(task, known.of(task)))
    merged = {cell.name: merge_cell(store, plan.tasks_of(cell)) for cell in plan.cells}
    findings = Findings([], worker.panel.settings(), [space_of(one.extractor) for one in worker.panel.spaces])
    return make_report(plan, findings, [], merged, tables_of(plan, merged))


def _saved(folder: Path, images: Sequence[Image.Image], names: Sequence[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        image.save(folder / f"{f'{i:06d}' if names is None else names[i]}.png")
    return folder


def _toy(out: Path, **folders: Path) -> EvalConfig:
    values = {
        "out": str(out),
        "protocol": {"kind": "toy", "n": N, "yardstick_n": N},
        "folders": {name: {"pictures": str(path), "like": "photo-none"} for name, path in folders.items()},
        "shard_size": N,
    }
    return EvalConfig.model_validate(values)


def _others(out: Path) -> list[Image.Image]:
    """Another photo of the person of each of a toy run's references."""
    plan = make_plan(_toy(out))
    pictures = [plan.protocol.sample(plan.cell("real-photo"), i).picture for i in range(N)]
    return [one for one in pictures if one is not None]


def _flags(report: Report, cell: str) -> list[str]:
    return [flag for flag in report.flags if flag.startswith(report.cell(cell).title)]


def _clip_i(clip: ClipScorer, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
    metric = ImageSimilarity(clip)
    metric.update(list(images), list(references), [f"{i:03d}" for i in range(len(images))])
    return metric.items().mean()


@torch.no_grad()
def _rescaled_twice(clip: ClipScorer, images: Sequence[Image.Image]) -> np.ndarray:
    """Pictures that were made floats in [0, 1], into a processor that divides by 255 as well."""
    floats = [np.asarray(image, np.float32) / 255 for image in images]
    mean, std = (np.array(getattr(clip.processor, f"image_{word}"), np.float32) for word in ("mean", "std"))
    pixels = np.stack([(one * clip.processor.rescale_factor - mean) / std for one in floats]).transpose(0, 3, 1, 2)
    output = clip.model.get_image_features(torch.from_numpy(np.ascontiguousarray(pixels, np.float32)))
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).numpy()


def test_doubly_rescaled_pictures(clip: ClipScorer, people: People, tmp_path: Path, rows: list[_Row]) -> None:
    true = _clip_i(clip, people.others, people.images)
    printed = float(cosines(_rescaled_twice(clip, people.others), _rescaled_twice(clip, people.images)).mean())
    # Strangers would have scored as high.
    strangers = np.roll(_rescaled_twice(clip, people.images), 1, axis=0)
    assert cosines(_rescaled_twice(clip, people.others), strangers).mean() > 0.99
    assert printed > 0.99 > 0.95 > true
    with pytest.raises(ImageError, match="it was rescaled twice") as refused:
        picture(np.asarray(people.images[0]) / 255 / 255)
    rows.append(_Row("pictures rescaled twice", "CLIP-I", printed, true, str(refused.value)))
    # As files they are levels 0 and 1 of 255.
    black = [Image.fromarray((np.asarray(image) / 255).round().astype(np.uint8)) for image in people.images]
    report = _evaluated(
        _toy(tmp_path / "out", black=_saved(tmp_path / "black", black)), "references", "train-photo", "black"
    )
    flags = _flags(report, "black")
    assert any("to judge all its pictures are one" in flag and "rescaled twice" in flag for flag in flags)
    assert any("clip_i does not fall when the pairs are shuffled" in flag for flag in flags)


def test_captions_that_no_picture_was_drawn_from(
    clip: ClipScorer, people: People, tmp_path: Path, rows: list[_Row]
) -> None:
    def clip_t(captions: Sequence[str]) -> float:
        metric = ClipT(clip)
        metric.update(people.images, captions, people.ids)
        return metric.items().mean()

    printed, true = clip_t(people.captions[1:] + people.captions[:1]), clip_t(people.captions)
    assert printed < true - 0.05
    folder = _saved(tmp_path / "theirs", people.images)
    lines = [json.dumps({"file_name": f"{i:06d}.png", "prompt": people.captions[i]}) for i in range(N)]
    (folder / METADATA).write_text("\n".join(lines))
    config = _toy(tmp_path / "out", theirs=folder)
    with pytest.raises(DataError, match=f"was drawn from .* and would be scored against '{PROMPT}'") as refused:
        _evaluated(config, "references", "train-photo", "theirs")
    rows.append(_Row("captions that no picture was drawn from", "CLIP-T", printed, true, str(refused.value)))
    # Where nobody says what a picture was drawn from, there is no CLIP-T at all.
    (folder / METADATA).unlink()
    report = _evaluated(config, "references", "train-photo", "theirs")
    assert "clip_t" not in report.cell("theirs").metrics
    assert any("so 12 of 12 have no CLIP-T" in flag for flag in _flags(report, "theirs"))


def test_stretched_thumbnails_as_the_real_side(people: People, tmp_path: Path, rows: list[_Row]) -> None:
    real, drawn = ([image.crop((12, 0, 84, 96)) for image in side] for side in (people.images, people.others))
    thumbnails = [image.resize((16, 16)) for image in real]
    names = [f"{name}-000" for name in (f"{i:06d}.png" for i in range(N))]
    theirs = _saved(tmp_path / "theirs", drawn, names)
    reports = {}
    for kind, references in (("portraits", real), ("thumbnails", thumbnails)):
        protocol = {
            "kind": "folder",
            "references": str(_saved(tmp_path / kind, references)),
            "prompts": [PROMPT],
            "bases": {"photo": "toy/photo"},
            "image_encoder": "toy/image_encoder",
            "clip": "toy/clip",
        }
        folders = {"theirs": {"pictures": str(theirs), "like": "photo-none"}}
        values = {"out": str(tmp_path / f"out-{kind}"), "protocol": protocol, "folders": folders, "shard_size": N}
        reports[kind] = _evaluated(EvalConfig.model_validate(values), "references", "theirs")
    printed, true = (reports[kind].cell("theirs").metrics["fd_clip"].value for kind in ("thumbnails", "portraits"))
    assert printed > 1.1 * true
    assert not any("px are held against" in flag for flag in reports["portraits"].flags)
    (flag,) = (flag for flag in _flags(reports["thumbnails"], "theirs") if "px are held against" in flag)
    assert "of 72x96 px are held against ones of 16x16 px; networks stretch both to one square" in flag
    rows.append(_Row("stretched thumbnails as the real side", "FD (clip)", printed, true, flag))


def test_training_pictures_as_test_pictures(clip: ClipScorer, people: People, tmp_path: Path, rows: list[_Row]) -> None:
    rng = np.random.default_rng(0)
    trained = []
    for seed in rng.integers(1 << 30, size=4 * N):
        draw = random.Random(int(seed))
        trained.append(render(sample_identity_of("train", draw), sample_scene(draw), "photo"))
    seen = clip.features(trained)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)

    def learnt_by_heart(references: Sequence[Image.Image]) -> list[Image.Image]:
        """A system that knows nothing but its training pictures, and answers with the nearest of them."""
        return [trained[int(row)] for row in (clip.features(references) @ seen.T).argmax(axis=1)]

    printed = _clip_i(clip, learnt_by_heart(trained[:N]), trained[:N])
    true = _clip_i(clip, learnt_by_heart(people.images), people.images)
    assert printed > 0.9999 > 0.95 > true
    adapter = leave_run(tmp_path, TrainingPictures.of([digest_of(image) for image in trained]))
    with pytest.raises(DataError, match="was trained on 12 of 12 references") as refused:
        require_held_out("mine", adapter, ((f"{i}.png", digest_of(image)) for i, image in enumerate(trained[:N])))
    rows.append(_Row("training pictures as test pictures", "CLIP-I", printed, true, str(refused.value)))
    held_out = require_held_out("mine", adapter, ((f"{i}", digest_of(one)) for i, one in enumerate(people.images)))
    assert held_out.is_known


def test_references_shuffled_against_pictures(tmp_path: Path, rows: list[_Row]) -> None:
    right = _others(tmp_path)
    folders = {"right": right, "shuffled": right[1:] + right[:1]}
    saved = {name: _saved(tmp_path / name, images) for name, images in folders.items()}
    report = _evaluated(_toy(tmp_path / "out", **saved), "references", "train-photo", *folders)
    printed, true = (report.cell(name).metrics["clip_i"].value for name in ("shuffled", "right"))
    assert printed < true - 0.2
    assert not any("does not fall" in flag for flag in _flags(report, "right"))
    (flag,) = (
        flag for flag in _flags(report, "shuffled") if "clip_i does not fall when the pairs are shuffled" in flag
    )
    rows.append(_Row("references shuffled against pictures", "CLIP-I", printed, true, flag))
    # The crowd of pictures is the same in both: no distance of distributions would have told.
    distances = [report.cell(name).metrics["fd_judge"].value for name in folders]
    assert distances[0] == pytest.approx(distances[1], rel=1e-6)


def test_one_system_saved_as_jpeg(tmp_path: Path, rows: list[_Row]) -> None:
    images, saved = _others(tmp_path), {"whole": tmp_path / "whole", "coded": tmp_path / "coded"}
    _saved(saved["whole"], images)
    saved["coded"].mkdir()
    for i, image in enumerate(images):
        image.save(saved["coded"] / f"{i:06d}.jpg", quality=50)
    report = _evaluated(_toy(tmp_path / "out", **saved), "references", "train-photo", *saved)
    printed, true = (report.cell(name).metrics["fd_judge"].value for name in ("coded", "whole"))
    # The pictures are the same: all of the difference is the codec's.
    assert printed != pytest.approx(true, rel=1e-3)
    assert not any("saved alike" in flag for flag in _flags(report, "whole"))
    (flag,) = (flag for flag in _flags(report, "coded") if "saved alike" in flag)
    rows.append(_Row("one system saved as JPEG", "FD", printed, true, flag))
