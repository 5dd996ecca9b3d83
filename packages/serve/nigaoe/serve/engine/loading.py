"""Weights from their places into memory, checked to be what was asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.fetching import fetch_version, is_address, is_published, read_published
from nigaoe.core.adapters.files import load_adapter, read_adapter_file
from nigaoe.core.bases import Base
from nigaoe.core.engine.packed import can_pack
from nigaoe.core.errors import AdapterError, BaseModelError, ConfigError
from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.features import require_encoder
from nigaoe.core.models import locate
from nigaoe.core.transfers import sha256_of
from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.orders import AdapterAt


@dataclass(frozen=True, eq=False)
class Encoders:
    """What looks at pictures; loaded once, for good."""

    looks: ImageEncoder | None
    faces: FaceEncoder | None


def device_of(config: ServeConfig) -> str:
    """Where a replica computes.

    Raises:
        BaseModelError: A GPU was asked for and there is none.
    """
    if config.num_gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise BaseModelError(f"num_gpus is {config.num_gpus:g} but torch sees no CUDA device; set num_gpus=0")
    return "cuda"


def adapter_at(name: str, path: str | Path) -> AdapterAt:
    """What a config calls an adapter, as one version of it.

    Raises:
        AdapterError: There is none, or it cannot be read.
        DataError: A registry that cannot be read.
    """
    if is_address(path) or is_published(Path(path)):
        published = read_published(str(path))
        return AdapterAt(name, published.sha256, published.where)
    file = read_adapter_file(path).path
    return AdapterAt(name, sha256_of(str(file)), str(file))


def load_version(at: AdapterAt, encoders: Encoders, device: str) -> IPAdapter:
    """Just this version of an adapter, frozen.

    Raises:
        AdapterError: It is gone or another file by now, damaged, or not for these encoders.
    """
    file = fetch_version(at.where, at.sha256)
    before = file.stat()
    adapter = load_adapter(file)
    after = file.stat()
    if (before.st_mtime_ns, before.st_size, before.st_ino) != (after.st_mtime_ns, after.st_size, after.st_ino):
        raise AdapterError(f"adapter {at.name!r} changed while it was read; ask again")
    require_encoders(at.name, adapter, encoders)
    return adapter.requires_grad_(False).to(device)


def require_encoders(name: str, adapter: IPAdapter, encoders: Encoders) -> None:
    """Refuse an adapter that reads what nobody here says.

    Raises:
        AdapterError: An encoder is lacking or of another width.
    """
    needs_looks = adapter.variant.inputs != ("identity",)
    try:
        if encoders.looks is not None:
            if needs_looks:
                require_encoder(adapter, encoders.looks, has_identity=encoders.faces is not None)
        elif needs_looks:
            raise AdapterError("it reads CLIP and there is no image encoder; set image_encoder")
        if "identity" in adapter.variant.inputs and encoders.faces is None:
            raise AdapterError("it reads identities and there is no face encoder; set face_encoder")
    except AdapterError as error:
        raise AdapterError(f"adapter {name!r} and the encoders: {error}") from None


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


def base_bytes(base: Base, config: EngineConfig) -> int:
    """Of its weights; on the CPU the runner keeps a second UNet, laid out for speed."""
    models = [base.unet, base.vae, *(tower.model for tower in base.text_encoder.towers)]
    packed = config.runner in (None, "packed") and can_pack(base.unet)
    return _bytes(p for model in models for p in model.parameters()) + (_bytes(base.unet.parameters()) if packed else 0)


def adapter_bytes(adapter: IPAdapter) -> int:
    """Of its weights."""
    return _bytes(adapter.parameters())


def encoder_bytes(encoders: Encoders) -> int:
    """Of the image encoder; a face encoder keeps its weights to itself."""
    return 0 if encoders.looks is None else _bytes(encoders.looks.model.parameters())


def require_budget(config: EngineConfig, what: str, needed: int) -> None:
    """Refuse what would not fit into the memory of a replica even alone.

    Raises:
        ConfigError: It does not.
    """
    if config.memory_gib is not None and needed > config.memory_gib * 2**30:
        raise ConfigError(
            f"engine.memory_gib {config.memory_gib:g} has no room for {what}, which take {needed / 2**30:.3g}; raise it"
        )


def _bytes(weights: Iterable[torch.Tensor]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)
