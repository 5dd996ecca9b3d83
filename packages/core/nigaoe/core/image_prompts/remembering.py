"""Encoders that look at each picture once. Otherwise they are the encoders that they are made of."""

import threading
from collections.abc import Sequence

import torch
from cachetools import LRUCache
from PIL import Image

from nigaoe.core.caches import CacheStats, TensorCache, image_digest
from nigaoe.core.faces.encoder import Face, FaceEncoder
from nigaoe.core.image_encoders import ImageEncoder, Impression
from nigaoe.core.image_prompts.crops import mean_colour
from nigaoe.core.pixels import ImageLike, as_pil

FACE_CACHE_PICTURES = 4096
"""What a recogniser says of one takes some kilobytes."""


class RememberingEncoder:
    """An image encoder that looks at each picture once."""

    def __init__(self, encoder: ImageEncoder, limit_bytes: int) -> None:
        self._encoder = encoder
        self._seen: TensorCache[Impression] = TensorCache(limit_bytes)
        self._fingerprint: str | None = None

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def embed_dim(self) -> int:
        return self._encoder.embed_dim

    @property
    def hidden_dim(self) -> int:
        return self._encoder.hidden_dim

    @property
    def side(self) -> int:
        return self._encoder.side

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour that it takes for nothing."""
        return mean_colour(self._encoder.processor.image_mean)

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._encoder.fingerprint()
        return self._fingerprint

    @property
    def cache(self) -> CacheStats:
        return self._seen.stats

    def look(self, images: Sequence[ImageLike]) -> Impression:
        seen = [self._look(as_pil(image)) for image in images]
        return Impression(*(torch.cat(parts) for parts in zip(*seen, strict=True)))

    def look_at_nothing(self) -> Impression:
        return self._seen.get(None, self._encoder.look_at_nothing)

    def _look(self, image: Image.Image) -> Impression:
        return self._seen.get(image_digest(image), lambda: self._encoder.look([image]))


class RememberingFaceEncoder:
    """A face encoder that searches each picture once, for any thread: who asks again waits for no other search."""

    def __init__(self, encoder: FaceEncoder) -> None:
        self._encoder = encoder
        self._found: LRUCache[str, tuple[Face, ...]] = LRUCache(FACE_CACHE_PICTURES)
        self._reading, self._searching = threading.Lock(), threading.Lock()

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def find(self, image: Image.Image) -> list[Face]:
        key = image_digest(image)
        known = self._known(key)
        if known is None:
            with self._searching:
                known = self._known(key)
                if known is None:
                    known = tuple(self._encoder.find(image))
                    with self._reading:
                        self._found[key] = known
        return list(known)

    def _known(self, key: str) -> tuple[Face, ...] | None:
        with self._reading:
            return self._found.get(key)
