"""One memory of faces for all threads, so that the engine thread finds there what others searched for beforehand."""

import threading

from cachetools import LRUCache
from PIL import Image

from nigaoe.core.caches import image_digest
from nigaoe.core.faces.encoder import Face, FaceEncoder
from nigaoe.core.image_prompts.remembering import FACE_CACHE_PICTURES


class SharedFaces:
    """A face encoder for any thread. Who asks for a picture that was searched does not wait for other searches."""

    def __init__(self, encoder: FaceEncoder) -> None:
        self._encoder = encoder
        self._found: LRUCache[str, tuple[Face, ...]] = LRUCache(FACE_CACHE_PICTURES)
        self._reading, self._searching = threading.Lock(), threading.Lock()

    @property
    def name(self) -> str:
        """As `load_face_encoder` takes it."""
        return self._encoder.name

    @property
    def dim(self) -> int:
        """I of the identities."""
        return self._encoder.dim

    def find(self, image: Image.Image) -> list[Face]:
        """All faces of an RGB picture, the largest first; none where there is none."""
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
