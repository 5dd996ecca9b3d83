"""The header of a safetensors file, read with suspicion: before anything else looks at the file. No torch here.

8 bytes of length (little-endian), JSON, the numbers. The JSON:
`{"name": {"dtype": "F16", "shape": [..], "data_offsets": [from, to]}}`.
"""

import json
import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nigaoe.core.errors import AdapterError

MOST_HEADER_BYTES = 1 << 22
"""An adapter of SDXL with LoRAs has 200 kB, a whole checkpoint of its UNet 400 kB; the format itself allows 100 MB."""
MOST_TENSORS = 8192
MOST_AXES = 8
MOST_IN_AXIS = 2**31 - 1

ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}

_DOWNLOAD = "download or convert it again"


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of one tensor, checked against the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """All tensors of a file, in the order of their bytes, which are all of the file."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    data_start: int
    size_bytes: int
    """Of the file."""


def read_header(path: Path, where: str) -> Header:
    """Read and check; `where`: how messages name the file.

    Raises:
        AdapterError: No safetensors file, or one whose header is damaged, too large or does not tell the truth.
    """
    try:
        # A link could lead anywhere, and a pipe could keep us waiting.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise AdapterError(f"{where} cannot be read ({error.strerror}); give a file") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise AdapterError(f"{where} is no file; give a .safetensors file")
    with os.fdopen(handle, "rb") as file:
        size, head = found.st_size, file.read(8)
        if head.startswith((b"PK", b"\x80")):
            raise AdapterError(
                f"{where} is a pickle or an archive, which may run code and was not opened; "
                "convert it by `nigaoe adapter convert`, where you trust it"
            )
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8 or length < 2:
            raise AdapterError(f"{where} is no safetensors file, or is truncated; {_DOWNLOAD}")
        if length > MOST_HEADER_BYTES:
            raise AdapterError(
                f"{where} has a header of {length} bytes, more than the {MOST_HEADER_BYTES} that any adapter has; "
                f"{_DOWNLOAD}"
            )
        text = file.read(length)
    entries, metadata = _parsed(text, where)
    return Header(_tensors(entries, size, 8 + length, where), metadata, 8 + length, size)


def _parsed(text: bytes, where: str) -> tuple[dict[str, Any], dict[str, str]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a name comes twice")
        return values

    def no_number(text: str) -> float:
        raise ValueError(f"{text} is no number")

    try:
        header = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
        if not isinstance(header, dict):
            raise ValueError("it is no object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not all text")
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:100]
        raise AdapterError(f"{where} has a damaged header ({reason}); {_DOWNLOAD}") from None
    if not 0 < len(header) <= MOST_TENSORS:
        raise AdapterError(f"{where} has {len(header)} tensors, an adapter 1 to {MOST_TENSORS}; {_DOWNLOAD}")
    return header, metadata


def _tensors(entries: dict[str, Any], size: int, data_start: int, where: str) -> dict[str, StoredTensor]:
    tensors = {name: _tensor(name, entry, data_start, where) for name, entry in entries.items()}
    end = data_start
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].num_bytes)))
    for name, tensor in ordered.items():
        if tensor.start != end:
            raise AdapterError(f"{where} has {_short(name)} where its other tensors are or nothing is; {_DOWNLOAD}")
        end += tensor.num_bytes
    if end != size:
        what = "truncated" if end > size else "longer than its tensors"
        raise AdapterError(f"{where} is {what}: {size} bytes, where its header speaks of {end}; {_DOWNLOAD}")
    return ordered


def _tensor(name: str, entry: Any, data_start: int, where: str) -> StoredTensor:
    def no_tensor(reason: str) -> AdapterError:
        return AdapterError(f"{where} has {_short(name)} {reason}; {_DOWNLOAD}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise no_tensor("without type, shape and place, or with more than those")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise no_tensor(f"of type {str(dtype)[:20]!r}, which no adapter has")
    if not _are_counts(shape, MOST_IN_AXIS) or not len(shape) <= MOST_AXES:
        raise no_tensor("of a shape that is none")
    if not _are_counts(offsets, 2**63 - 1) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise no_tensor("at a place that is none")
    num_bytes = offsets[1] - offsets[0]
    if prod(shape) * ITEM_BYTES[dtype] != num_bytes:
        raise no_tensor(f"of shape {shape} and type {dtype} in {num_bytes} bytes, which does not add up")
    return StoredTensor(dtype, tuple(shape), data_start + offsets[0], num_bytes)


def _are_counts(values: Any, most: int) -> bool:
    # bool is an int to Python, and no count.
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:97]}...")
