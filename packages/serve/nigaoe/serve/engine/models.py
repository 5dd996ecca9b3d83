"""Everything that a replica loads: bases of one architecture, the image encoder, adapters; checked to fit together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.allocator import keep_freed_memory
from nigaoe.core.errors import AdapterError, BaseModelError
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from nigaoe.core.image_prompts.features import require_encoder
from nigaoe.core.models import locate
from nigaoe.serve.config import ServeConfig


@dataclass(frozen=True, eq=False)
class Models:
    """Loaded and frozen; owned by one engine thread."""

    bases: Mapping[str, Base]
    image_encoder: ImageEncoder | None
    adapters: Mapping[str, IPAdapter]


def load_models(config: ServeConfig) -> Models:
    """Load what a config names.

    Raises:
        BaseModelError: A base or the encoder cannot be loaded, or there is no GPU.
        AdapterError: An adapter cannot be read, or does not fit the encoder or a base.
    """
    device = "cuda" if config.num_gpus > 0 else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(f"num_gpus is {config.num_gpus:g} but torch sees no CUDA device; set num_gpus=0")
    if device == "cpu":
        keep_freed_memory()
    bases = {name: load_base(name, config.precision, device) for name in config.bases}
    encoder = None if config.image_encoder is None else load_image_encoder(config.image_encoder, device)
    adapters = {name: load_adapter(path).requires_grad_(False).to(device) for name, path in config.adapters.items()}
    for name, adapter in adapters.items():
        _require_fit(name, adapter, bases, encoder)
    return Models(bases, encoder, adapters)


def require_loadable(config: ServeConfig) -> None:
    """Find common mistakes at once: before any replica starts, which takes much longer to fail.

    Raises:
        BaseModelError: A base or the encoder has a name that cannot exist.
        AdapterError: One is missing or is not an adapter.
    """
    for name in config.bases:
        locate(name)
    if config.image_encoder is not None:
        locate(config.image_encoder, "image encoder")
    for path in config.adapters.values():
        load_adapter(path)


def _require_fit(name: str, adapter: IPAdapter, bases: Mapping[str, Base], encoder: ImageEncoder | None) -> None:
    assert encoder is not None
    try:
        require_encoder(adapter, encoder)
    except AdapterError as error:
        raise AdapterError(f"adapter {name!r} and its encoder: {error}") from None
    for base in bases.values():
        try:
            adapter.require_fit(base.unet)
        except AdapterError as error:
            raise AdapterError(f"adapter {name!r} does not fit base {base.name!r}: {error}") from None
