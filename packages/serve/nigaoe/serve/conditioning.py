"""Pictures to image prompts, with a memory: who asks again with the same picture waits for no encoder."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from nigaoe.core.adapters.variants import Feature
from nigaoe.core.conditioning import ImageFeatures, guided_image_prompts, image_features
from nigaoe.core.engine.rows import GuidedImagePrompt
from nigaoe.serve.models import Models
from nigaoe.serve.orders import Reference

ValueT = TypeVar("ValueT")


class Lru(Generic[ValueT]):
    """The values used last, up to a number of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Hashable, ValueT] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], ValueT]) -> ValueT:
        """Return the value of a key, made if it is not there."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        if len(self._values) > self.capacity:
            self._values.popitem(last=False)
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)


class ImagePrompts:
    """Keys and values per (picture, adapter, scale), features per picture. For one thread."""

    def __init__(self, models: Models, capacity: int) -> None:
        self._models = models
        self._features: Lru[ImageFeatures] = Lru(capacity)
        self._prompts: Lru[GuidedImagePrompt] = Lru(capacity)

    def of(self, reference: Reference, adapter: str, scale: float) -> GuidedImagePrompt:
        """Encode a picture for an adapter."""
        key = (reference.digest, adapter, scale)
        return self._prompts.get(key, lambda: self._encode(reference, adapter, scale))

    def _encode(self, reference: Reference, adapter: str, scale: float) -> GuidedImagePrompt:
        encoder = self._models.image_encoder
        assert encoder is not None
        model = self._models.adapters[adapter]
        # Adapters that read the same of a picture share it.
        key: tuple[str, tuple[Feature, ...]] = (reference.digest, model.variant.inputs)
        features = self._features.get(key, lambda: image_features(model, encoder, [reference.pixels]))
        return guided_image_prompts(model, features, scale)[0]
