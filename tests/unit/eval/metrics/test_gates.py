"""Gates open for networks that see what they are asked for, and for no others."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.toy.people import STYLES, Style
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.gates import Gate, caption_gate, damage_gates, distance_gates, likeness_gate
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.scoring.clip import ClipScorer
from nigaoe.eval.scoring.features import FeatureExtractor
from nigaoe.eval.scoring.judge import JudgeScorer
from toy_people import People


class MeanColour:
    """Three numbers of a picture: no likeness at all."""

    name, fingerprint, dim, preprocessing = "colour", "0", 3, "as it is"

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])


@pytest.mark.parametrize("style", STYLES)
def test_the_toy_clip_knows_words(clip: ClipScorer, style: Style) -> None:
    gate = caption_gate(clip, 32, style)
    assert gate.is_passed, gate.line()


@pytest.mark.parametrize("style", STYLES)
def test_the_toy_networks_know_people(clip: ClipScorer, judge: JudgeScorer, style: Style) -> None:
    for network in (clip, judge):
        gate = likeness_gate(network, 32, style)
        assert gate.is_passed, gate.line()


def test_mean_colour_is_no_likeness() -> None:
    gate = likeness_gate(MeanColour(), 32)
    assert not gate.is_passed
    assert "FAILED" in gate.line()
    assert gate.figure < 0.9


def test_a_distance_of_mean_colours_misses_damage() -> None:
    gates = {gate.name: gate for gate in distance_gates(MeanColour(), 6)}
    blurred = gates["fd_colour rises under blur"]
    assert not blurred.is_passed, blurred.line()


def test_a_figure_that_is_nothing_passes_nothing() -> None:
    assert not Gate("it", "clip 1", float("nan"), 0.0, 0).is_passed


def _likeness(network: FeatureExtractor, people: People, pictures: Sequence[Image.Image]) -> float:
    metric = ImageSimilarity(network)
    metric.update(pictures, people.images, people.ids)
    return float(metric.compute())


def test_likeness_falls_under_every_damage(clip: ClipScorer, judge: JudgeScorer, people: People) -> None:
    networks: list[FeatureExtractor] = [clip, judge]
    for network in networks:
        gates = damage_gates("likeness", network.name, partial(_likeness, network, people), people.images)
        assert all(gate.is_passed for gate in gates), [gate.line() for gate in gates]


def test_words_fit_less_under_heavy_damage(clip: ClipScorer, people: People) -> None:
    def fit(pictures: Sequence[Image.Image]) -> float:
        metric = ClipT(clip)
        metric.update(pictures, people.captions, people.ids)
        return float(metric.compute())

    gates = {gate.name: gate for gate in damage_gates("clip_t", "clip", fit, people.images)}
    assert gates["clip_t falls under noise"].is_passed, [gate.line() for gate in gates.values()]


def test_a_score_that_does_not_fall_is_shut_out(people: People) -> None:
    assert not any(gate.is_passed for gate in damage_gates("constant", "", lambda _: 0.5, people.images[:1]))
    rising = damage_gates("distance", "", lambda x: -_likeness(MeanColour(), people, x), people.images)
    assert not all(gate.is_passed for gate in rising)
