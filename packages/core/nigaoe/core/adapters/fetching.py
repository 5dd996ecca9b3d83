"""Published adapters: which version is meant now, and a copy of it on this machine, by hash, that all replicas read."""

import os
from dataclasses import dataclass
from pathlib import Path

from nigaoe.core.errors import AdapterError, DataError
from nigaoe.core.manifests import AdapterManifest, parse_adapter_manifest
from nigaoe.core.storage import base_name, join, open_file
from nigaoe.core.stores import MissingFile, in_a_sentence, locate
from nigaoe.core.transfers import get_file, sha256_of

WEIGHTS, MANIFEST = "adapter.safetensors", "adapter.json"
"""Names in `<registry>/<name>/versions/<hash>`; in `<registry>/<name>` the second says which version counts."""
MOST_MANIFEST_BYTES = 1 << 22


@dataclass(frozen=True)
class Published:
    """One version of an adapter in a registry."""

    manifest: AdapterManifest
    where: str
    """Path or address of just these weights, whatever is published later."""

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return self.manifest.sha256


def is_address(where: str | Path) -> bool:
    """Whether it is an address like `s3://bucket/folder` and no path."""
    return isinstance(where, str) and "://" in where


def version_folder(manifest: AdapterManifest) -> str:
    """Where below `<registry>/<name>` the version of a manifest lies."""
    return manifest.folder or f"versions/{manifest.sha256[:12]}"


def read_published(place: str) -> Published:
    """What counts as published now at `<registry>/<name>`, a folder or an address.

    Raises:
        DataError: Nothing (`MissingFile`), or it cannot be read.
    """
    path = join(place, MANIFEST)
    # Opened anew each time, for it changes.
    with open_file(path) as file, in_a_sentence(locate(path), "read"):
        text = file.read(MOST_MANIFEST_BYTES + 1)
    if len(text) > MOST_MANIFEST_BYTES:
        raise DataError(f"{path!r} is larger than any manifest; publish the adapter again")
    manifest = parse_adapter_manifest(text, path)
    return Published(manifest, join(place, f"{version_folder(manifest)}/{WEIGHTS}"))


def fetch_version(where: str, sha256: str) -> Path:
    """A local file of just this content: a copy of what is in a bucket, made once; or the file itself in a folder.

    Raises:
        AdapterError: It is gone, cannot be read, or is another file by now.
    """
    try:
        if not is_address(where):
            _require_hash(where, sha256_of(where), sha256)
            return Path(where)
        kept = _place(sha256, where)
        if not kept.is_file():
            # By a name of its own first, for what has the hash's name is taken to be checked.
            coming = kept.with_name(f"{kept.name}.{os.getpid()}.unchecked")
            try:
                _require_hash(where, get_file(where, coming), sha256)
                coming.replace(kept)
            finally:
                coming.unlink(missing_ok=True)
        return kept
    except (OSError, DataError) as error:
        raise _unfetched(where, error) from None


def fetch_adapter(where: str) -> Path:
    """A local copy of what counts at `<registry>/<name>`, a folder or an address, or of a file's own address.

    Raises:
        AdapterError: There is no such adapter, or its bucket cannot be read.
    """
    try:
        if not base_name(where).endswith((".safetensors", ".bin")):
            published = read_published(where)
            return fetch_version(published.where, published.sha256)
        return fetch_version(where, sha256_of(where))
    except DataError as error:
        raise _unfetched(where, error) from None


def is_published(folder: Path) -> bool:
    """Whether a folder is that of an adapter in a registry, and not that of a run."""
    return (folder / MANIFEST).is_file() and (folder / "versions").is_dir()


def _require_hash(where: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise DataError(f"{where} is not the file that {MANIFEST} speaks of")


def _unfetched(where: str, error: Exception) -> AdapterError:
    reason = "it does not exist" if isinstance(error, MissingFile) else str(error).splitlines()[0].rstrip(".")
    return AdapterError(
        f"adapter {where!r} cannot be fetched ({reason}); give the folder that `nigaoe publish` wrote, and the keys of "
        "its bucket"
    )


def _place(digest: str, where: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "nigaoe" / "adapters" / digest[:32] / base_name(where)
