"""One forward of each network per picture, however many metrics ask for it; and none for what an earlier shard saw.

What is computed is the same whoever remembers: pictures are put through a network in the order in which they are first
asked for, and only those that are not known. N pictures, E numbers.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.training_pictures import DIGEST_BYTES, digest_of
from nigaoe.eval.scoring.faces import Faces
from nigaoe.eval.scoring.features import FeatureExtractor, TextImageEncoder
from nigaoe.eval.scoring.pictures import Pictures, pictures


@dataclass(eq=False)
class Digests:
    """Hashes of pictures by content, each object's told once: nobody changes a picture that is being scored."""

    _told: dict[int, tuple[weakref.ref[Image.Image], bytes]] = field(default_factory=dict)

    def of(self, image: Image.Image) -> bytes:
        """Hash of a picture."""
        seen, digest = self._told.get(id(image), (None, b""))
        # Another picture may have come to lie where one was.
        if seen is None or seen() is not image:
            digest = digest_of(image)
            self._told[id(image)] = weakref.ref(image), digest
        return digest

    def rows(self, images: Sequence[Image.Image]) -> UInt8[np.ndarray, "N 16"]:
        """Hashes of several pictures."""
        joined = b"".join(self.of(image) for image in images)
        return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)

    def forget(self) -> None:
        """Pictures to come are others."""
        self._told.clear()


class Rememberer(Protocol):
    """Whatever can be told what was seen before."""

    @property
    def name(self) -> str:
        """Of the network."""

    def know(self, keys: UInt8[np.ndarray, "N 16"], rows: Float32[np.ndarray, "N E"]) -> None:
        """Forget everything but these."""


@dataclass(eq=False)
class RememberingExtractor:
    """A feature extractor that looks at each picture once."""

    extractor: FeatureExtractor
    digests: Digests = field(default_factory=Digests)
    _rows: dict[bytes, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the network."""
        return self.extractor.name

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        return self.extractor.fingerprint

    @property
    def dim(self) -> int:
        """E."""
        return self.extractor.dim

    @property
    def preprocessing(self) -> str:
        """Of the network."""
        return self.extractor.preprocessing

    def know(self, keys: UInt8[np.ndarray, "N 16"], rows: Float32[np.ndarray, "N E"]) -> None:
        """Forget everything but these."""
        self._rows = {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}

    def features(self, images: Pictures) -> Float32[np.ndarray, "N E"]:
        """One row per picture."""
        seen = pictures(images)
        keys = [self.digests.of(image) for image in seen]
        fresh = {key: image for key, image in zip(keys, seen, strict=True) if key not in self._rows}
        if fresh:
            self._rows |= dict(zip(fresh, self.extractor.features(list(fresh.values())), strict=True))
        return np.stack([self._rows[key] for key in keys])


@dataclass(eq=False)
class RememberingClip(RememberingExtractor):
    """The same with texts."""

    extractor: TextImageEncoder
    _texts: dict[str, np.ndarray] = field(default_factory=dict)

    def know(self, keys: UInt8[np.ndarray, "N 16"], rows: Float32[np.ndarray, "N E"]) -> None:
        """Forget everything but these."""
        super().know(keys, rows)
        self._texts = {}

    def text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """One row per text."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if fresh:
            self._texts |= dict(zip(fresh, self.extractor.text_features(fresh), strict=True))
        return np.stack([self._texts[text] for text in texts])

    def are_cut(self, texts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which texts are longer than what is read of them."""
        return self.extractor.are_cut(texts)


@dataclass(eq=False)
class RememberingFaces:
    """A face scorer that looks at each picture once. NaN stands for a picture without a face."""

    scorer: Faces
    digests: Digests = field(default_factory=Digests)
    _rows: dict[bytes, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the encoder."""
        return self.scorer.name

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        return self.scorer.fingerprint

    @property
    def encoder(self) -> FaceEncoder:
        """What finds faces."""
        return self.scorer.encoder

    def know(self, keys: UInt8[np.ndarray, "N 16"], rows: Float32[np.ndarray, "N E"]) -> None:
        """Forget everything but these."""
        self._rows = {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}

    def identity(self, image: Image.Image) -> np.ndarray | None:
        """Embedding of the largest face, float32 [I] of length 1; None where no face is found."""
        row = self.row(image)
        return None if np.isnan(row).any() else row

    def row(self, image: Image.Image) -> Float32[np.ndarray, " I"]:
        """The same; NaN where no face is found."""
        key = self.digests.of(image)
        if key not in self._rows:
            found = self.scorer.identity(image)
            self._rows[key] = np.full(self.encoder.dim, np.nan, np.float32) if found is None else found
        return self._rows[key]
