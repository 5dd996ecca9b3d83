"""One look at each picture, whoever asks, and none at what was seen before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.faces.encoder import Face
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.face_identity import FaceIdentity
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.protocols.protocol import Sample
from nigaoe.eval.running.panel import Batch, Known, Panel
from nigaoe.eval.scoring.faces import FaceScorer
from nigaoe.eval.scoring.remembering import Digests, RememberingClip, RememberingExtractor, RememberingFaces


@dataclass(eq=False)
class _Colours:
    """Features are colours; counts what it was shown."""

    name: str = "clip"
    fingerprint: str = "1"
    dim: int = 3
    preprocessing: str = "none"
    pictures: list[int] = field(default_factory=list)
    """Of each forward."""
    texts: list[list[str]] = field(default_factory=list)

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.pictures.append(len(images))
        return np.array([image.getpixel((0, 0)) for image in images], np.float32)

    def text_features(self, texts: Sequence[str]) -> np.ndarray:
        self.texts.append(list(texts))
        return np.array([[len(text), 1, 2] for text in texts], np.float32)

    def are_cut(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(text) > 20 for text in texts])


@dataclass(eq=False)
class _Found:
    """A face wherever there is red; counts what it was shown."""

    name: str = "told"
    dim: int = 3
    looks: int = 0

    def find(self, image: Image.Image) -> list[Face]:
        self.looks += 1
        pixel = torch.tensor(image.getpixel((0, 0)), dtype=torch.float32)
        return [Face(pixel, (0, 0, *image.size), np.zeros((5, 2)), 1.0)] if pixel[0] else []


def _picture(*colour: int) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


PICTURES = [_picture(10 * i + 1, 50, 100 - i) for i in range(4)]
REFERENCES = [_picture(200 - i, 5 * i + 1, 3) for i in range(4)]
PROMPTS = ["a hat", "a coat", "a hat", "a person with a very long scarf"]


def _batch() -> Batch:
    """Every reference is a stranger to the next two samples."""
    samples = [Sample(f"{i}", f"{i}", REFERENCES[i], PROMPTS[i]) for i in range(4)]
    strangers = [[REFERENCES[(i + k) % 4] for i in range(4)] for k in (1, 2)]
    others: list[list[str | None]] = [
        [PROMPTS[1] if i != 1 else PROMPTS[0] for i in range(4)],
        [None, PROMPTS[3], None, "a hat"],
    ]
    return Batch(samples, PICTURES, strangers, others)


def _panel(clip: _Colours, dino: _Colours, faces: _Found) -> Panel:
    remembering = RememberingClip(clip)
    other = RememberingExtractor(dino)
    scorer = RememberingFaces(FaceScorer(faces, "told", "1"))
    return Panel(remembering, [remembering, other], [remembering], scorer, None, None)


def test_each_picture_is_looked_at_once_however_many_figures_ask() -> None:
    clip, dino, faces = _Colours(), _Colours("dino"), _Found()
    panel = _panel(clip, dino, faces)
    panel.know(None)
    columns = panel.columns(_batch())
    panel.samples(PICTURES, [f"{i}" for i in range(4)])
    panel.embeddings(REFERENCES)
    assert sum(clip.pictures) == sum(dino.pictures) == faces.looks == len(PICTURES) + len(REFERENCES)
    # Few calls, too: a GPU is not kept waiting picture by picture.
    assert len(dino.pictures) == 2
    assert sorted(text for call in clip.texts for text in call) == sorted(set(PROMPTS))
    assert {"clip_t", "clip_t~wrong1", "clip_i~wrong1", "dino_i", "face_told", "face_told~wrong0"} <= set(columns)


def test_what_is_remembered_is_what_would_be_computed() -> None:
    clip, dino, faces = _Colours(), _Colours("dino"), _Found()
    columns = _panel(clip, dino, faces).columns(_batch())
    ids = [f"{i}" for i in range(4)]
    words = ClipT(_Colours())
    words.update(PICTURES, PROMPTS, ids, ids)
    assert np.array_equal(columns["clip_t"], words.items().values)
    fresh: dict[str, ImageSimilarity | FaceIdentity] = {
        "clip_i": ImageSimilarity(_Colours()),
        "dino_i": ImageSimilarity(_Colours("dino")),
        "face_told": FaceIdentity(FaceScorer(_Found(), "told", "1")),
    }
    for name, metric in fresh.items():
        metric.update(PICTURES, REFERENCES, ids, ids)
        assert np.array_equal(columns[name], metric.items().values), name
    wrong = ImageSimilarity(_Colours())
    wrong.update(PICTURES, [REFERENCES[(i + 1) % 4] for i in range(4)], ids, ids)
    assert np.array_equal(columns["clip_i~wrong0"], wrong.items().values)
    # Samples with fewer wrong partners have none, and no figure of one.
    assert np.isnan(columns["clip_t~wrong1"]).tolist() == [True, False, True, False]
    assert columns["clip_t_cut"].tolist() == [0, 0, 0, 1]


def test_what_an_earlier_shard_saw_is_taken_from_it() -> None:
    seen = _panel(_Colours(), _Colours("dino"), _Found())
    known = Known(Digests().rows(REFERENCES), seen.embeddings(REFERENCES))
    clip, dino, faces = _Colours(), _Colours("dino"), _Found()
    panel = _panel(clip, dino, faces)
    panel.know(known)
    columns = panel.columns(_batch())
    assert sum(clip.pictures) == sum(dino.pictures) == faces.looks == len(PICTURES)
    plain = _panel(_Colours(), _Colours("dino"), _Found()).columns(_batch())
    assert {name: values.tobytes() for name, values in columns.items()} == {
        name: values.tobytes() for name, values in plain.items()
    }


def test_known_rows_are_used_and_not_only_counted() -> None:
    extractor = _Colours()
    remembering = RememberingExtractor(extractor)
    told = np.array([[7, 8, 9]], np.float32)
    remembering.know(Digests().rows(REFERENCES[:1]), told)
    rows = remembering.features([REFERENCES[0], PICTURES[0], REFERENCES[0]])
    assert rows.tolist() == [[7, 8, 9], [1, 50, 100], [7, 8, 9]]
    assert extractor.pictures == [1]


def test_a_new_shard_begins_with_nothing_but_what_is_known() -> None:
    clip, dino, faces = _Colours(), _Colours("dino"), _Found()
    panel = _panel(clip, dino, faces)
    panel.columns(_batch())
    panel.know(None)
    panel.columns(_batch())
    # What a worker saw before must not decide what is put through a network together.
    assert clip.pictures == [4, 4, 4, 4]
    assert [sorted(call) for call in clip.texts[: len(clip.texts) // 2]] == [
        sorted(call) for call in clip.texts[len(clip.texts) // 2 :]
    ]


def test_a_picture_is_its_pixels_whatever_it_comes_as() -> None:
    extractor = _Colours()
    remembering = RememberingExtractor(extractor)
    pixels = np.asarray(PICTURES[0])
    remembering.features([PICTURES[0], PICTURES[0].copy(), PICTURES[0].convert("RGBA")])
    remembering.features([pixels])
    remembering.features([torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255])
    assert extractor.pictures == [1]
    remembering.features([Image.new("RGB", (8, 2), PICTURES[0].getpixel((0, 0)))])
    assert extractor.pictures == [1, 1]


@pytest.mark.parametrize("is_known", [False, True])
def test_faces_with_and_without_a_face(is_known: bool) -> None:
    encoder = _Found()
    faces = RememberingFaces(FaceScorer(encoder, "told", "1"))
    face, none = _picture(9, 0, 0), _picture(0, 9, 0)
    if is_known:
        rows = np.array([[1, 0, 0], [np.nan] * 3], np.float32)
        faces.know(Digests().rows([face, none]), rows)
    for _ in range(3):
        found = faces.identity(face)
        assert found is not None
        assert np.array_equal(found, [1, 0, 0])
        # That there is none was found as well, and need not be looked for again.
        assert faces.identity(none) is None
        assert np.isnan(faces.row(none)).all()
    assert encoder.looks == (0 if is_known else 2)


def test_columns_tell_where_there_is_no_face() -> None:
    batch = _batch()
    pictures = [*PICTURES[:3], _picture(0, 1, 2)]
    samples = [Sample("0", "0", _picture(0, 3, 4), "a hat"), *batch.samples[1:]]
    panel = _panel(_Colours(), _Colours("dino"), _Found())
    columns = panel.columns(Batch(samples, pictures, batch.strangers, batch.other_prompts))
    assert columns["face_told_found"].tolist() == [1, 1, 1, 0]
    assert columns["face_told_reference_found"].tolist() == [0, 1, 1, 1]
    assert np.isnan(columns["face_told"]).tolist() == [True, False, False, True]
    assert np.isnan(columns["face_told~wrong0"]).tolist() == [False, False, False, True]


def test_texts_are_remembered_by_their_letters() -> None:
    clip = _Colours()
    remembering = RememberingClip(clip)
    rows = partial(remembering.text_features)
    assert rows(["a", "bb", "a"])[:, 0].tolist() == [1, 2, 1]
    assert rows(["bb", "ccc"])[:, 0].tolist() == [2, 3]
    assert clip.texts == [["a", "bb"], ["ccc"]]
    remembering.know(np.zeros((0, 16), np.uint8), np.zeros((0, 0), np.float32))
    rows(["a"])
    assert clip.texts[-1] == ["a"]
