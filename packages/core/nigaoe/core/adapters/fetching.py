"""Adapters in buckets: copied once to this machine, by hash, so that every replica on it reads one file."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nigaoe.core.atomic import write_whole
from nigaoe.core.errors import AdapterError

WEIGHTS, MANIFEST = "adapter.safetensors", "adapter.json"
"""Names in a registry's folder of one adapter, and in `versions/<hash>` below it."""


def is_address(where: str | Path) -> bool:
    """Whether it is an address like `s3://bucket/folder` and no path."""
    return isinstance(where, str) and "://" in where


def fetch_adapter(uri: str) -> Path:
    """A local copy of what was published last at `<registry>/<name>`, or of a file's own address.

    Raises:
        AdapterError: There is no such adapter, or its bucket cannot be read.
    """
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(uri)
        if path.endswith((".safetensors", ".bin")):
            return _kept(filesystem, path, expected=None)
        # The manifest is written last; by its hash the weights are found that it speaks of, whatever comes meanwhile.
        manifest = json.loads(_read(filesystem, f"{path}/{MANIFEST}"))
        digest = str(manifest["sha256"])
        return _kept(filesystem, f"{path}/versions/{digest[:12]}/{WEIGHTS}", expected=digest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AdapterError(
            f"adapter {uri!r} cannot be fetched ({reason}); give the folder that `nigaoe publish` wrote, and the keys "
            "of its bucket"
        ) from None


def _kept(filesystem: Any, path: str, expected: str | None) -> Path:
    """The copy of a file of this hash; made, and checked, if it is not there yet."""
    kept = None if expected is None else _place(expected, path)
    if kept is not None and kept.is_file():
        return kept
    content = _read(filesystem, path)
    digest = hashlib.sha256(content).hexdigest()
    if expected is not None and digest != expected:
        raise ValueError(f"{path} is not the file that {MANIFEST} speaks of")
    place = _place(digest, path)
    write_whole(place, content)
    return place


def _place(digest: str, path: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "nigaoe" / "adapters" / digest[:16] / Path(path).name


def _read(filesystem: Any, path: str) -> bytes:
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())
