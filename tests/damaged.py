"""Files as they come from broken disks and from people who mean harm: seeded, so that each can be made again."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asked import picture_file

Change = Callable[[bytes, np.random.Generator], bytes]
Header = dict[str, Any]


@dataclass(frozen=True)
class Damage:
    """One damaged file."""

    name: str
    """What was done to which, for who has to find it again."""
    data: bytes = field(repr=False)
    whole: bytes = field(repr=False)


def damaged_pictures(count: int, seed: int) -> Iterator[Damage]:
    """Of every format that is read, of modes with and without transparency, and one in disguise."""
    sources = {
        f"{kind} {mode}": picture_file((48, 40), kind, mode)
        for kind, mode in (
            ("PNG", "RGB"),
            ("PNG", "RGBA"),
            ("PNG", "P"),
            ("JPEG", "RGB"),
            ("WEBP", "RGB"),
            ("WEBP", "RGBA"),
        )
    }
    sources["JPEG CMYK"] = picture_file((48, 40), "JPEG", "CMYK")
    rng = np.random.default_rng(seed)
    names = list(sources)
    for number in range(count):
        name = names[number % len(names)]
        change = _CHANGES[int(rng.integers(len(_CHANGES)))]
        yield Damage(f"{seed}/{number} {change.__name__} {name}", change(sources[name], rng), sources[name])


def damaged_adapters(whole: bytes, count: int, seed: int) -> Iterator[Damage]:
    """Of one safetensors file: its header as text and as bytes; some have other weights."""
    rng = np.random.default_rng(seed)
    length = int.from_bytes(whole[:8], "little")
    header, weights = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for number in range(count):
        if number % 2:
            change = _HEADER_CHANGES[int(rng.integers(len(_HEADER_CHANGES)))]
            text = change(copy.deepcopy(header), rng)
            name, data = change.__name__, len(text).to_bytes(8, "little") + text + weights
        else:
            byte_change = _CHANGES[int(rng.integers(len(_CHANGES)))]
            name = byte_change.__name__
            # Only the length and the header: of the weights most bytes may be anything.
            data = byte_change(whole[: 8 + length], rng) + weights
        yield Damage(f"{seed}/{number} {name}", data, whole)


def _place(data: bytes, rng: np.random.Generator) -> int:
    # Half of all in the first bytes, where a file says what it is.
    return int(rng.integers(min(len(data), 64) if rng.random() < 0.5 else len(data)))


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        changed[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwritten(data: bytes, rng: np.random.Generator) -> bytes:
    place, length = _place(data, rng), int(rng.integers(1, 17))
    return data[:place] + rng.bytes(length) + data[place + length :]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _without_a_part(data: bytes, rng: np.random.Generator) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place + int(rng.integers(1, 65)) :]


def _with_more(data: bytes, rng: np.random.Generator) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.bytes(int(rng.integers(1, 257))) + data[place:]


def _repeated(data: bytes, rng: np.random.Generator) -> bytes:
    place, length = _place(data, rng), int(rng.integers(1, 129))
    return data[:place] + data[place : place + length] * int(rng.integers(2, 50)) + data[place:]


def _with_an_extreme_number(data: bytes, rng: np.random.Generator) -> bytes:
    extremes = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
    number = extremes[int(rng.integers(len(extremes)))]
    width = max(1, (number.bit_length() + 7) // 8)
    place = _place(data, rng)
    return data[:place] + number.to_bytes(width, "big" if rng.random() < 0.5 else "little") + data[place + width :]


_CHANGES: list[Change] = [
    _flipped,
    _overwritten,
    _cut,
    _without_a_part,
    _with_more,
    _repeated,
    _with_an_extreme_number,
]

_VALUES: list[Any] = [
    None,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    1.5,
    "",
    "../../x",
    "F8_E4M3",
    "F64",
    "BOOL",
    [],
    {},
    [0],
    [2**62, 4],
    [-1, 4],
    [0, 0],
    [[[]]],
    "\u0000",
    "a" * 10_000,
]
_KEYS = [
    "",
    "../../x",
    "/etc/passwd",
    "__metadata__",
    "ip_adapter.-1.to_k_ip.weight",
    "a" * 10_000,
    "\u0000",
    "\U0001f600",
]


def _text(header: Header) -> bytes:
    return json.dumps(header).encode()


def _key(header: Header, rng: np.random.Generator) -> str:
    keys = sorted(header)
    return keys[int(rng.integers(len(keys)))]


def _another_value(header: Header, rng: np.random.Generator) -> bytes:
    value = _VALUES[int(rng.integers(len(_VALUES)))]
    entry = header[key := _key(header, rng)]
    if isinstance(entry, dict) and entry and rng.random() < 0.8:
        entry[_key(entry, rng)] = value
    else:
        header[key] = value
    return _text(header)


def _another_key(header: Header, rng: np.random.Generator) -> bytes:
    entry = header.pop(_key(header, rng))
    header[_KEYS[int(rng.integers(len(_KEYS)))]] = entry
    return _text(header)


def _a_tensor_less(header: Header, rng: np.random.Generator) -> bytes:
    del header[_key(header, rng)]
    return _text(header)


def _shared_places(header: Header, rng: np.random.Generator) -> bytes:
    one, other = header[_key(header, rng)], header[_key(header, rng)]
    if "data_offsets" in one and "data_offsets" in other:
        one["data_offsets"] = other["data_offsets"]
    return _text(header)


def _turned_shapes(header: Header, rng: np.random.Generator) -> bytes:
    entry = header[_key(header, rng)]
    if "shape" in entry:
        entry["shape"] = entry["shape"][::-1] + [1] * int(rng.integers(0, 3))
    return _text(header)


def _odd_metadata(header: Header, rng: np.random.Generator) -> bytes:
    header["__metadata__"] = {"format": _VALUES[int(rng.integers(len(_VALUES)))], "variant": "../../x"}
    return _text(header)


def _twice_the_same_key(header: Header, rng: np.random.Generator) -> bytes:
    key = _key(header, rng)
    return b"{" + json.dumps(key).encode() + b":" + json.dumps(header[key]).encode() + b"," + _text(header)[1:]


def _nested(header: Header, rng: np.random.Generator) -> bytes:
    depth = int(rng.integers(10, 100_000))
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


def _crowded(header: Header, rng: np.random.Generator) -> bytes:
    header |= {f"x{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(2000)}
    return _text(header)


_HEADER_CHANGES: list[Callable[[Header, np.random.Generator], bytes]] = [
    _another_value,
    _another_value,
    _another_value,
    _another_key,
    _a_tensor_less,
    _shared_places,
    _turned_shapes,
    _odd_metadata,
    _twice_the_same_key,
    _nested,
    _crowded,
]
