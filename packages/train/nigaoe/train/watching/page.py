"""A run as a page that needs nothing but itself: who has no Weights & Biases sees the same."""

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from nigaoe.core.atomic import write_whole
from nigaoe.core.axes import plain
from nigaoe.core.pages import data_uri, render_page
from nigaoe.train.watching import curves
from nigaoe.train.watching.charts import chart_groups, median, points_of, waiting_for_data
from nigaoe.train.watching.curves import smoothed
from nigaoe.train.watching.history import (
    RunHistory,
    ValidationResult,
    coarser,
    grid_path,
    read_history,
    read_validations,
)

PAGE_FILE = "report.html"
EARLIER_GRIDS = 5
MOST_LINES = 4000
_THUMBNAIL_PX = 480
_TEMPLATE = Path(__file__).parent / "run.html.j2"


@dataclass(frozen=True)
class Card:
    """A figure in large."""

    title: str
    figure: str
    beside: str


@dataclass(frozen=True)
class Grid:
    """The pictures of a validation."""

    step: int
    uri: str
    file: str
    """Relative to the page."""
    words: str


def write_run_page(out: Path) -> None:
    """Write `report.html` in a run's folder, of what lies there."""
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    history, validations = read_history(out), read_validations(out)
    notes = [*history.notes, *_notes(validations, history), *_failures(validations)]
    # Days of training make more lines than a curve has room for, and workers wait for this.
    history = replace(history, lines=coarser(history.lines, MOST_LINES))
    done = [result for result in validations if result.failure is None]
    grids = _grids(out, done)
    html = render_page(
        _TEMPLATE,
        run=run,
        steps=run["steps"],
        done=history.step,
        state=_state(history, run),
        cards=_cards(history, done),
        groups=[(title, charts) for title, charts in chart_groups(history, done) if charts],
        plot=curves,
        grids=grids,
        notes=notes,
        facts=_facts(run),
        starts=[(start, _moment(start.time)) for start in history.starts],
        now=_moment(time.time()),
    )
    write_whole(out / PAGE_FILE, html.encode())


def _state(history: RunHistory, run: Mapping[str, Any]) -> str:
    pictures = history.step * int(run["batch_size"])
    parts = [
        "finished" if history.step >= run["steps"] else "not finished",
        f"{pictures:,} pictures seen",
        f"{_duration(history.seconds)} of training",
    ]
    if history.restarts:
        count = len(history.restarts)
        parts.append(f"started again {'once' if count == 1 else f'{count} times'}")
    return " · ".join(parts)


def _cards(history: RunHistory, validations: Sequence[ValidationResult]) -> list[Card]:
    cards = []
    losses = smoothed(points_of(history, "loss"))
    if losses:
        cards.append(Card("Training loss", f"{losses[-1][1]:.4f}", "smoothed, at the last step"))
    scored = [result for result in validations if "validation_loss" in result.metrics]
    if scored:
        best = min(scored, key=lambda result: result.metrics["validation_loss"])
        last = scored[-1].metrics["validation_loss"]
        beside = f"held out, step {scored[-1].step:,}; lowest {best.metrics['validation_loss']:.4f} at {best.step:,}"
        cards.append(Card("Validation loss", f"{last:.4f}", beside))
    for key, title in (("clip_i", "CLIP-I"), ("identity", "Identity")):
        with_it = [result for result in validations if key in result.metrics]
        if with_it:
            metrics = with_it[-1].metrics
            other = metrics.get(f"{key}_shuffled")
            beside = "" if other is None else f"with the wrong person {other:.3f}"
            cards.append(Card(title, f"{metrics[key]:.3f}", beside))
    rates = [y for _, y in points_of(history, "images_per_s")]
    if rates:
        shares = [y for _, y in waiting_for_data(history)]
        waits = f"; {median(shares):.1f} % of the time waiting for data" if shares else ""
        cards.append(Card("Images per second", plain(median(rates)), f"median, over all workers{waits}"))
    mfus = [y for _, y in points_of(history, "mfu", 100)]
    if mfus:
        cards.append(Card("MFU", f"{median(mfus):.1f}\N{NO-BREAK SPACE}%", "median; of what the device could compute"))
    return cards


def _grids(out: Path, validations: Sequence[ValidationResult]) -> list[Grid]:
    """The latest first, then some of the earlier ones, the first among them."""
    drawn = [result for result in validations if grid_path(out, result.step).is_file()]
    if not drawn:
        return []
    earlier = drawn[-2::-1]
    if len(earlier) > EARLIER_GRIDS:
        spread = (len(earlier) - 1) / (EARLIER_GRIDS - 1)
        earlier = [earlier[round(i * spread)] for i in range(EARLIER_GRIDS)]
    return [_grid(out, drawn[-1], None), *(_grid(out, result, _THUMBNAIL_PX) for result in earlier)]


def _grid(out: Path, result: ValidationResult, width_px: int | None) -> Grid:
    path = grid_path(out, result.step)
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if width_px is not None and picture.width > width_px:
        picture.thumbnail((width_px, picture.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=90 if width_px is None else 80)
    figures = [
        f"{title} {result.metrics[key]:.3f}" + _beside(result, f"{key}_shuffled")
        for key, title in _IN_WORDS
        if key in result.metrics
    ]
    return Grid(result.step, data_uri(buffer.getvalue()), path.relative_to(out).as_posix(), ", ".join(figures))


def _beside(result: ValidationResult, key: str) -> str:
    return f" (wrong person {result.metrics[key]:.3f})" if key in result.metrics else ""


_IN_WORDS = (("validation_loss", "loss"), ("clip_i", "CLIP-I"), ("identity", "identity"))


def _notes(validations: Sequence[ValidationResult], history: RunHistory) -> list[str]:
    notes = []
    last = next((result for result in reversed(validations) if result.failure is None), None)
    if last is not None:
        notes.append(
            f"Validation loss: {last.loss_rows} held-out pictures, each once in each band of timesteps, always with "
            "the same noise, nothing dropped and nothing weighted. Late timesteps, the noisy ones, decide where things "
            "are; early ones what they look like."
        )
    if last is not None and "clip_i" in last.metrics:
        notes.append(
            f"CLIP-I: cosine between a drawn picture and its reference in {last.image_encoder}, over {last.pictures} "
            "pictures. Pictures of one style are alike whoever they show: likeness is only what lies above the line of "
            "the wrong person, which holds the same pictures against other people's references."
        )
    if last is not None and "identity" in last.metrics:
        notes.append(
            f"Identity: cosine between faces in {last.face_encoder}, over the drawn pictures in which it finds one; "
            "their share stands beside it, for faces that cannot be found are not counted."
        )
    if any(line.get(key) is None for line in history.lines for key in ("loss", "grad_norm")):
        notes.append("Some losses or gradients were no finite numbers; the curves leave them out.")
    if history.restarts:
        notes.append("Dashed vertical lines: the run was started again there, from its last checkpoint.")
    return notes


def _failures(validations: Sequence[ValidationResult]) -> list[str]:
    return [f"Validation of step {r.step:,} failed: {r.failure}" for r in validations if r.failure is not None]


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, optimizer, adapter = run.get("data", {}), run.get("optimizer", {}), run.get("adapter", {})
    drop, validation = run.get("drop", {}), run.get("validation")
    schedule = (
        f"{optimizer.get('lr', 0):g}, {optimizer.get('schedule')}, {optimizer.get('warmup_steps')} steps of warm-up"
    )
    loss = run.get("loss", {})
    facts = {
        "adapter": f"{adapter.get('variant')}" + (f", from {run['init_from']}" if run.get("init_from") else ""),
        "base": run.get("base"),
        "image encoder": run.get("image_encoder"),
        "face encoder": run.get("face_encoder"),
        "data": data.get("source"),
        "reference": "another picture of the person" if data.get("reference") == "other" else "the picture itself",
        "batch": f"{run.get('batch_size')} pictures, {run.get('steps'):,} steps",
        "learning rate": schedule,
        "weight decay": optimizer.get("weight_decay"),
        "dropped": ", ".join(f"{key} {100 * share:g} %" for key, share in drop.items() if share),
        "min-SNR gamma": loss.get("min_snr_gamma"),
        "noise offset": loss.get("noise_offset") or None,
        "averaged with": run.get("ema_decay"),
        "precision": run.get("precision"),
        "ZeRO stage": run.get("deepspeed", {}).get("zero_stage"),
        "seed": run.get("seed"),
        "drawn with": validation
        and f"{validation['steps']} steps, guidance {validation['guidance_scale']:g}, scale {validation['scale']:g}",
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
