"""Which weights made a figure: hashes of folders and files, commits of hub models."""

import hashlib
from functools import lru_cache
from pathlib import Path

from huggingface_hub import snapshot_download

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import locate

_SUFFIXES = (".safetensors", ".bin", ".json", ".txt")


def file_fingerprint(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over names and contents of a model folder's weights and configs."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES):
        seen = path.stat()
        told = _remembered(path.resolve(), seen.st_size, seen.st_mtime_ns)
        digest.update(f"{path.relative_to(folder).as_posix()} {told}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)
def _remembered(path: Path, size: int, mtime_ns: int) -> str:
    # Bases are gigabytes, and a notebook plans more than once.
    return file_fingerprint(path)


def model_fingerprint(name: str, role: str = "base model") -> str:
    """Hash of a local model; for a hub model the commit that its name stands for at present.

    Raises:
        BaseModelError: It cannot be found.
    """
    path = locate(name, role)
    if Path(path).is_dir():
        return folder_fingerprint(Path(path))
    if name.startswith("toy/"):
        raise BaseModelError(f"{role} {name!r} is not in this installation; its weights are missing at {path!r}")
    try:
        return Path(snapshot_download(path, allow_patterns=["*.json"])).name
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"{role} {name!r} cannot be had from the hub ({reason}); download it or give a folder"
        ) from None
