"""What the names of figures mean: titles, directions, and which are shares."""

from collections.abc import Iterable

from nigaoe.core.reports import Metric
from nigaoe.core.toy.people import ATTRIBUTES
from nigaoe.eval.metrics.cmmd import ClipMmd
from nigaoe.eval.metrics.frechet import FrechetDistance
from nigaoe.eval.metrics.frechet_infinity import FrechetInfinity
from nigaoe.eval.metrics.kid import KernelDistance
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.running.panel import FACE_AUC, FACE_FOUND, FACE_RECOGNISED
from nigaoe.eval.running.worker import Findings

FALSE_ALARMS = 0.01
"""Share of strangers that are taken for the person at the threshold of `_recognised`."""

_JUDGED = {
    "attribute.mean": ("attributes kept", True),
    "judged_anime": ("judged anime", None),
    "background_copied": ("background copied", None),
    "background_chance": ("\u2026 by chance", None),
    "background_copy_ratio": ("\u2026 over chance", False),
    "background_red": ("background red", None),
}
_PIXELS = {"ssim": "SSIM", "lpips": "LPIPS"}
_SHARES = ("judged_anime", "background_copied", "background_chance", "background_red")


def describe(findings: Findings) -> dict[str, Metric]:
    """Every figure that a cell may have, in the order of the report."""
    return {**_judged(findings.settings), **_per_sample(findings.settings), **_distances(findings.spaces)}


def _judged(settings: dict[str, str]) -> dict[str, Metric]:
    if "attribute.mean" not in settings:
        return {}
    setting = settings["attribute.mean"]
    titles = {f"attribute.{name}": (name.replace("_", " "), True) for name in ATTRIBUTES} | _JUDGED
    return {
        name: Metric(
            title=title,
            setting=setting,
            higher_is_better=better,
            is_per_sample=name in settings,
            is_share=name.startswith("attribute.") or name in _SHARES,
        )
        for name, (title, better) in titles.items()
    }


def _per_sample(settings: dict[str, str]) -> dict[str, Metric]:
    found = {}
    for name, setting in settings.items():
        if name == "clip_t":
            found[name] = Metric(title="CLIP-T", setting=setting, higher_is_better=True)
        elif name == "clip_score":
            found[name] = Metric(title="CLIPScore", setting=setting, higher_is_better=True)
        elif name == "clip_diversity":
            # Noise is diverse, too.
            found[name] = Metric(title="diversity over seeds", setting=setting)
        elif name.startswith("face_"):
            found[name] = _face(name, setting)
        elif name.endswith("_i"):
            title = "CLIP-I" if name == "clip_i" else f"{name.removesuffix('_i')}-I"
            found[name] = Metric(title=title, setting=setting, higher_is_better=True)
    pixels = {**_PIXELS, **{f"ms_ssim{end}": "MS-SSIM" for end in ("", "_1", "_2", "_3", "_4")}}
    found |= {
        name: Metric(title=title, setting=settings.get(name, ""), higher_is_better=name != "lpips")
        for name, title in pixels.items()
    }
    return found


def _face(name: str, setting: str) -> Metric:
    words = {
        FACE_AUC: ("the person before strangers, AUC", True),
        FACE_RECOGNISED: ("recognised", True),
        FACE_FOUND: ("face found", True),
    }
    for end, (title, is_share) in words.items():
        if name.endswith(end):
            return Metric(title=title, setting=setting, higher_is_better=True, is_share=is_share and end != FACE_AUC)
    return Metric(title="face cosine", setting=setting, higher_is_better=True)


def _distances(spaces: Iterable[FeatureSpace]) -> dict[str, Metric]:
    found = {}
    for space in spaces:
        setting, on = f"{space.extractor} {space.fingerprint}", f" ({space.extractor})"
        lower = {
            FrechetDistance(space).name: "FID" if FrechetDistance(space).name == "fid" else f"FD{on}",
            FrechetInfinity(space).name: f"FD, endless samples{on}",
            KernelDistance(space).name: "KID" if KernelDistance(space).name == "kid" else f"KD{on}",
        }
        if space.extractor.startswith("clip"):
            lower[ClipMmd(space).name] = "CMMD"
        higher = {f"{word}_{space.extractor}": f"{word}{on}" for word in DISTRIBUTION_SHARES}
        for name, title in (*lower.items(), *higher.items()):
            found[name] = Metric(title=title, setting=setting, higher_is_better=name in higher, is_per_sample=False)
    return found


DISTRIBUTION_SHARES = ("precision", "recall", "density", "coverage")
