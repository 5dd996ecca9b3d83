"""An adapter from a stranger: safetensors only, every claim checked, never all of it in memory."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import VARIANT_KEY, load_adapter
from nigaoe.core.adapters.headers import Header, StoredTensor, read_header
from nigaoe.core.adapters.layouts import flatten_adapter
from nigaoe.core.adapters.variants import VariantName, detect_variant
from nigaoe.core.atomic import whole_file
from nigaoe.core.errors import AdapterError
from nigaoe.core.manifests import AdapterManifest, AdapterOutline
from nigaoe.core.transfers import sha256_of

CHUNK = 1 << 22
"""Bytes looked at at a time; a multiple of every item's size."""

_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "BOOL": torch.bool},
}


@dataclass(frozen=True)
class VettedAdapter:
    """What a file turned out to be."""

    variant: VariantName
    num_tokens: int
    parameters: int
    outline: AdapterOutline
    sha256: str

    def manifest(self, name: str, created: datetime) -> AdapterManifest:
        """What is published of a file that comes without its origin."""
        return AdapterManifest(
            name=name,
            variant=self.variant,
            num_tokens=self.num_tokens,
            parameters=self.parameters,
            sha256=self.sha256,
            created=created,
            outline=self.outline,
        )


def vet_adapter(path: Path, where: str, variant: str | None = None) -> VettedAdapter:
    """Check header, shapes and values of a file of any published layout.

    Args:
        path: The file; not a link.
        where: How messages name it.
        variant: What somebody says it is, where keys and metadata leave a doubt.

    Raises:
        AdapterError: It is no whole adapter of finite numbers.
    """
    header = read_header(path, where)
    adapter = _shapes(header, where, variant)
    return VettedAdapter(
        variant=adapter.variant.name,
        num_tokens=adapter.num_tokens,
        parameters=sum(p.numel() for p in adapter.parameters()),
        outline=adapter.outline,
        sha256=_require_finite(path, header, where),
    )


def describe_file(path: Path, where: str) -> VettedAdapter:
    """As `vet_adapter`, of a file that an operator chose: its values are not looked at, and it may be a `.bin`.

    Raises:
        AdapterError: It is no whole adapter.
    """
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    adapter = _shapes(read_header(path.resolve(), where), where, None) if is_safetensors else load_adapter(path)
    parameters = sum(p.numel() for p in adapter.parameters())
    return VettedAdapter(adapter.variant.name, adapter.num_tokens, parameters, adapter.outline, sha256_of(str(path)))


def _shapes(header: Header, where: str, variant: str | None) -> IPAdapter:
    named = {name: torch.empty(x.shape, dtype=_DTYPES[x.dtype], device="meta") for name, x in header.tensors.items()}
    state, _ = flatten_adapter(named)
    if not any(key.endswith(".to_k_ip.weight") for key in state):
        raise AdapterError(
            f"{where} is not an IP-Adapter: it has no 'ip_adapter.*.to_k_ip.weight'; give a .safetensors adapter"
        )
    kind = detect_variant(state, variant or header.metadata.get(VARIANT_KEY), where)
    return IPAdapter.of_shapes(state, kind, where)


def say_variant(path: Path, variant: str, where: str) -> None:
    """Write into the metadata of a file which variant it is, so that nobody has to be told again.

    Raises:
        AdapterError: As `read_header`.
    """
    header = read_header(path, where)
    if header.metadata.get(VARIANT_KEY) == variant:
        return
    entries = {
        name: {
            "dtype": x.dtype,
            "shape": x.shape,
            "data_offsets": [x.start - header.data_start, x.start - header.data_start + x.num_bytes],
        }
        for name, x in header.tensors.items()
    }
    text = json.dumps({"__metadata__": {**header.metadata, VARIANT_KEY: variant}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("rb") as old, whole_file(path) as new:
        new.write(len(text).to_bytes(8, "little") + text)
        old.seek(header.data_start)
        while part := old.read(CHUNK):
            new.write(part)


def _require_finite(path: Path, header: Header, where: str) -> str:
    """Look at every number once; returns the hash of what was looked at."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(header.data_start))
        for name, tensor in header.tensors.items():
            left = tensor.num_bytes
            while left:
                part = file.read(min(left, CHUNK))
                if not part:
                    raise AdapterError(f"{where} became shorter while it was read; send it again")
                digest.update(part)
                left -= len(part)
                if not _are_finite(part, tensor):
                    raise AdapterError(
                        f"{where} has a weight in {name!r} that is not a number; train or download it again"
                    )
    return digest.hexdigest()


def _are_finite(part: bytes, tensor: StoredTensor) -> bool:
    match tensor.dtype:
        case "F64":
            # As float32, in which it will be used.
            with np.errstate(over="ignore", invalid="ignore"):
                return bool(np.isfinite(np.frombuffer(part, "<f8").astype(np.float32)).all())
        case "F32":
            return bool(np.isfinite(np.frombuffer(part, "<f4")).all())
        case "F16":
            return _has_no_exponent(np.frombuffer(part, "<u2"), 0x7C00)
        case "BF16":
            return _has_no_exponent(np.frombuffer(part, "<u2"), 0x7F80)
        case "F8_E5M2":
            return _has_no_exponent(np.frombuffer(part, "u1"), 0x7C)
        case "F8_E4M3":
            # Of this format one pattern alone, with either sign, is no number.
            return _has_no_exponent(np.frombuffer(part, "u1"), 0x7F)
    return True


def _has_no_exponent(bits: NDArray[np.unsignedinteger], exponent: int) -> bool:
    """Whether no number has all bits of the exponent, which are infinity and what is no number."""
    mask = bits.dtype.type(exponent)
    return not bool(((bits & mask) == mask).any())
