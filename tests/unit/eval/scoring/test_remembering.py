"""A picture is hashed once and looked at once, whoever asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.training_pictures import digest_of
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.scoring import remembering
from nigaoe.eval.scoring.remembering import Digests, RememberingExtractor


@dataclass(eq=False)
class Colour:
    """The first pixel of a picture, and how many pictures were looked at."""

    name: str = "colour"
    fingerprint: str = "none"
    dim: int = 3
    preprocessing: str = "none"
    seen: list[Image.Image] = field(default_factory=list)

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.seen += images
        return np.array([np.asarray(image)[0, 0] for image in images], np.float32)


def _colours(*names: str) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), name) for name in names]


def test_each_picture_is_hashed_and_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Image.Image] = []

    def hash_of(image: Image.Image) -> bytes:
        hashed.append(image)
        return digest_of(image)

    monkeypatch.setattr(remembering, "digest_of", hash_of)
    digests = Digests()
    one, other = (RememberingExtractor(Colour(), digests) for _ in range(2))
    images, references = _colours("red", "blue"), _colours("blue", "green")
    for extractor in (one, other):
        for partners in (references, references[::-1]):
            metric = ImageSimilarity(extractor)
            metric.update(images, partners, ["a", "b"])
    # Four objects, of which two look alike.
    assert len(hashed) == 4
    assert isinstance(one.extractor, Colour)
    assert len(one.extractor.seen) == 3
    np.testing.assert_array_equal(one.features(references), [[0, 0, 255], [0, 128, 0]])


def test_a_hash_is_never_that_of_a_picture_that_lay_there_before() -> None:
    digests, colours = Digests(), [f"rgb({i}, 0, 0)" for i in range(50)]
    # Each is gone when the next one comes, which then often has its id.
    found = [digests.of(image) for image in (Image.new("RGB", (4, 4), colour) for colour in colours)]
    assert found == [digest_of(Image.new("RGB", (4, 4), colour)) for colour in colours]
    rows = digests.rows(_colours("red", "blue"))
    assert [row.tobytes() for row in rows] == [digest_of(image) for image in _colours("red", "blue")]
