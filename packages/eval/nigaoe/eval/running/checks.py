"""Sanity checks before the first picture: does every network behave as a figure's reader takes for granted?

They are run on real pictures of the run, and on pictures whose answers are known.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch
from PIL import Image

from nigaoe.core.errors import DataError, ImageError
from nigaoe.core.reports import Check
from nigaoe.core.toy.people import STYLES
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.frechet import FrechetDistance
from nigaoe.eval.metrics.gates import Gate, caption_gate, damage_gates, distance_gates, likeness_gate, photograph_gate
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.metrics.space import space_of
from nigaoe.eval.protocols.protocol import EvalProtocol
from nigaoe.eval.running.panel import Panel
from nigaoe.eval.scoring.features import FeatureExtractor, setting_of
from nigaoe.eval.scoring.pictures import picture

_PICTURES = 8
_CROWD = 16
_SAME = 1e-5
"""Of a cosine: what another batch size may move."""
_SAME_DISTANCE = 1e-4
"""Of a distance: what another place in a batch may move."""
_BLACK_AND_WHITE = 0.999
"""A cosine above says that a network does not see what it is shown."""


def check_panel(panel: Panel, protocol: EvalProtocol) -> list[Check]:
    """All checks of a panel, in a fixed order."""
    cell = next(cell for cell in protocol.cells() if cell.source == "references")
    shown = [protocol.sample(cell, index).reference for index in range(min(_PICTURES, cell.n))]
    checks = [_twice_rescaled()]
    for extractor in _extractors(panel):
        checks += _check_extractor(extractor, shown)
    checks += _check_words(panel)
    checks += [_said(gate) for gate in _gates(panel, shown)]
    return checks


def _extractors(panel: Panel) -> list[FeatureExtractor]:
    """Each network once, without what it remembers."""
    found = {setting_of(one): one.extractor for one in (*panel.similar, *panel.spaces)}
    return list(found.values())


def _check_extractor(extractor: FeatureExtractor, shown: Sequence[Image.Image]) -> list[Check]:
    name = extractor.name

    def similarity(left: Sequence[Image.Image], right: Sequence[Image.Image]) -> float:
        metric = ImageSimilarity(extractor)
        metric.update(list(left), list(right), [f"{i:03d}" for i in range(len(left))])
        return metric.items().mean()

    same = similarity(shown, shown)
    side = shown[0].size
    apart = similarity([Image.new("RGB", side, "black")], [Image.new("RGB", side, "white")])
    return [
        _check(f"{name}: identical pictures score 1", abs(same - 1) < _SAME, f"mean cosine {same:.6f}"),
        _check(f"{name}: black against white does not", apart < _BLACK_AND_WHITE, f"cosine {apart:.4f}"),
        _kinds(extractor, shown),
        _batches(extractor, shown),
        _repeats(extractor, shown),
    ]


def _kinds(extractor: FeatureExtractor, shown: Sequence[Image.Image]) -> Check:
    arrays = [np.asarray(image) for image in shown]
    floats = [torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255 for array in arrays]
    rows = [extractor.features([picture(one) for one in side]) for side in (shown, arrays, floats)]
    most = max(float(np.abs(row - rows[0]).max()) for row in rows)
    name = f"{extractor.name}: float, uint8 and PIL give the same numbers"
    return _check(name, most == 0.0, f"largest difference {most:g}")


def _batches(extractor: FeatureExtractor, shown: Sequence[Image.Image]) -> Check:
    together, alone = extractor.features(shown), np.concatenate([extractor.features([one]) for one in shown])
    most = float(np.abs(together - alone).max() / np.abs(together).max())
    name = f"{extractor.name}: the batch does not matter"
    return _check(name, most < 1e-3, f"largest difference {most:.1e} of the largest number")


def _repeats(extractor: FeatureExtractor, shown: Sequence[Image.Image]) -> Check:
    """Order and repetition of samples leave a distance as it is."""
    space, half = space_of(extractor), extractor.features(shown[: max(2, len(shown) // 2)])

    def distance(order: Sequence[int]) -> float:
        metric, rows = FrechetDistance(space), extractor.features([shown[i] for i in order])
        metric.update(half, real=False, ids=range(len(half)))
        for _ in range(2):
            metric.update(rows, real=True, ids=order)
        return float(metric.compute())

    plain, turned = distance(range(len(shown))), distance(range(len(shown))[::-1])
    name = f"{extractor.name}: duplicates and order change nothing"
    is_same = abs(plain - turned) <= _SAME_DISTANCE * plain
    return _check(name, is_same, f"distance {plain:.6g}, and {turned:.6g} in reverse")


def _twice_rescaled() -> Check:
    """Floats that were divided by 255 twice are black to every network, and every pair of them alike."""
    black = torch.linspace(0, 1 / 255, 3 * 16 * 16).reshape(3, 16, 16)
    try:
        picture(black)
    except ImageError as error:
        return _check("a picture that was rescaled twice is refused", True, str(error))
    return _check("a picture that was rescaled twice is refused", False, "it was taken for a picture")


def _check_words(panel: Panel) -> list[Check]:
    """Captions longer than what a CLIP reads are cut before their end, so that they still differ, and are counted."""
    length = panel.clip.extractor.text_length if hasattr(panel.clip.extractor, "text_length") else 77
    long = [f"{head} {'a person ' * length}" for head in ("a red hat", "a blue dress")]
    shown = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    metric = ClipT(panel.clip)
    metric.update(shown, long, ["0", "1"])
    one, other = panel.clip.extractor.text_features(long)
    apart = float(np.abs(one - other).max() / np.abs(one).max())
    cut = metric.num_cut()
    return [
        _check("captions that are cut are counted", cut == len(long), f"{cut} of {len(long)} beyond {length} tokens"),
        _check("captions that are cut still differ", apart > 1e-3, f"by {apart:.3f} of the largest number"),
    ]


def _gates(panel: Panel, shown: Sequence[Image.Image]) -> list[Gate]:
    """What the networks make of pictures whose answers are known."""
    gates = []
    if panel.judge is not None:
        gates += [caption_gate(panel.clip.extractor, style=style) for style in STYLES]
        gates += [likeness_gate(one.extractor, style=style, bound=0.8) for one in panel.similar for style in STYLES]
    if panel.faces is not None:
        # The photographs are no part of an installation.
        with suppress(DataError):
            gates.append(photograph_gate(panel.faces.scorer))
    # The protocol's own network is the first; a judge of five attributes owes nothing to noise.
    gates += [gate for one in panel.spaces[1:] for gate in distance_gates(one.extractor, n=_CROWD)]
    for one in panel.similar:
        gates += damage_gates(f"{one.name}_i", setting_of(one), _likeness_to(one.extractor, shown), shown)
    return gates


def _likeness_to(extractor: FeatureExtractor, shown: Sequence[Image.Image]) -> Callable[[Sequence[Image.Image]], float]:
    def score(spoilt: Sequence[Image.Image]) -> float:
        metric = ImageSimilarity(extractor)
        metric.update(list(spoilt), list(shown), [f"{i:03d}" for i in range(len(shown))])
        return metric.items().mean()

    return score


def _said(gate: Gate) -> Check:
    # The smallest number above 0 stands for "more than 0".
    asked = "more than 0" if gate.bound < 1e-300 else f"{gate.bound:g}"
    detail = f"{gate.figure:.5f}, asked for {asked}, on {gate.n} pictures"
    return Check(name=f"{gate.name} ({gate.setting})", passed=gate.is_passed, detail=detail)


def _check(name: str, passed: bool, detail: str) -> Check:
    return Check(name=name, passed=passed, detail=detail)
