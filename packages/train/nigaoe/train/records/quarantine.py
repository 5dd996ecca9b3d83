"""Rows that nobody should learn from: one JSON object per line, as `nigaoe dataset check` writes them."""

import json
from collections.abc import Mapping
from pathlib import Path

from nigaoe.core import storage
from nigaoe.core.errors import DataError


def write_quarantine(path: Path, entries: Mapping[str, str]) -> None:
    """Write reasons by the keys of their rows, whole or not at all.

    Raises:
        DataError: It may not be written.
    """
    lines = [json.dumps({"key": key, "reason": reason}, ensure_ascii=False) + "\n" for key, reason in entries.items()]
    storage.write_whole(str(path), "".join(lines).encode())


def read_quarantine(path: Path) -> dict[str, str]:
    """Read reasons by the keys of their rows; a line that is no JSON object is a key by itself, as people write lists.

    Raises:
        DataError: Missing, or a line cannot be read.
    """
    try:
        text = storage.read_bytes(str(path)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"quarantine list {str(path)!r} is not UTF-8 text; save it as UTF-8") from None
    entries: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            entries[line.strip()] = "listed by hand"
            continue
        try:
            entry = json.loads(line)
            entries[str(entry["key"])] = str(entry.get("reason", ""))
        except (json.JSONDecodeError, KeyError):
            raise DataError(
                f'line {number} of quarantine list {str(path)!r} is not like {{"key": ..., "reason": ...}}; mend it'
            ) from None
    return entries
