"""Memories are bounded in bytes, forget what was used longest ago, and count."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nigaoe.core.caches import TensorCache, image_digest, tensor_bytes

KEYS = st.lists(st.integers(0, 9), max_size=60)


@given(keys=KEYS, room=st.integers(1, 12))
def test_it_never_holds_more_than_its_bound_and_never_answers_wrongly(keys: list[int], room: int) -> None:
    cache: TensorCache[torch.Tensor] = TensorCache(room * 4)
    for key in keys:
        # Of `key` floats: the largest may be larger than the whole cache.
        assert len(cache.get(key, lambda key=key: torch.zeros(key))) == key  # type: ignore[misc]
        assert cache.stats.size_bytes <= cache.stats.limit_bytes
    assert cache.stats.hits + cache.stats.misses == len(keys)


def test_what_was_used_longest_ago_goes_first() -> None:
    made: list[str] = []

    def make(key: str) -> torch.Tensor:
        made.append(key)
        return torch.zeros(1)

    cache: TensorCache[torch.Tensor] = TensorCache(8)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: make(key))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    assert (cache.stats.hits, cache.stats.misses, cache.stats.entries) == (2, 4, 2)


def test_bytes_are_counted_wherever_tensors_are() -> None:
    some = torch.zeros(3, dtype=torch.float16)
    assert tensor_bytes({"a": (some, [some, None]), "b": 7}) == 12


def test_a_digest_is_of_the_pixels() -> None:
    picture = Image.new("RGB", (4, 2), (1, 2, 3))
    assert image_digest(picture) == image_digest(picture.convert("RGBA"))
    assert image_digest(picture) != image_digest(picture.rotate(90, expand=True))
    assert image_digest(picture) != image_digest(Image.new("RGB", (4, 2), (1, 2, 4)))
