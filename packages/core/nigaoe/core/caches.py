"""Memory for what is costly to make and often asked for again: bounded in bytes, counted, keyed by content."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from cachetools import LRUCache
from PIL import Image
from torch import Tensor

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class CacheStats:
    """Figures of a cache since it was made."""

    hits: int
    misses: int
    entries: int
    size_bytes: int
    limit_bytes: int


class TensorCache(Generic[ValueT]):
    """The values used last, up to so many bytes of tensors. For one thread."""

    def __init__(self, limit_bytes: int) -> None:
        self._values: LRUCache[Hashable, ValueT] = LRUCache(limit_bytes, getsizeof=tensor_bytes)
        self._hits = self._misses = 0

    def get(self, key: Hashable, make: Callable[[], ValueT]) -> ValueT:
        """Return the value of a key, made if it is not there; one larger than the whole cache is not kept."""
        if key in self._values:
            self._hits += 1
            return self._values[key]
        self._misses += 1
        value = make()
        if tensor_bytes(value) <= self._values.maxsize:
            self._values[key] = value
        return value

    @property
    def stats(self) -> CacheStats:
        """Figures of this moment."""
        values = self._values
        return CacheStats(self._hits, self._misses, len(values), int(values.currsize), int(values.maxsize))


def tensor_bytes(value: object) -> int:
    """Bytes of all tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(part) for part in value.values())
    if isinstance(value, (tuple, list)):
        return sum(tensor_bytes(part) for part in value)
    return 0


def image_digest(image: Image.Image) -> str:
    """SHA-256 of a picture's size and pixels; how it was stored does not matter."""
    pixels = np.asarray(image.convert("RGB"))
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
