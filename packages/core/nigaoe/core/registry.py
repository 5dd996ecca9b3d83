"""Adapters under names, in a folder or a bucket that training writes, servers read and both manage. No torch here.

    <registry>/<name>/adapter.json                           which version counts; what makes the adapter visible
    <registry>/<name>/versions/<12 digits of the hash>/      adapter.safetensors, adapter.json
    <registry>/<name>/versions/<...>/removed                 since when nobody should begin with it

Every file is there whole or not at all, weights before what speaks of them, and the pointer after everything: at any
moment a reader finds the version before or the version after. A version that was once removed never counts again: the
same content then lies in `<12 digits>-2` and so on, so that to sweep can take nothing away that came back.

Links in a registry are not looked at: who may write there is trusted with its adapters and with nothing else.
"""

import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path

from nigaoe.core.adapters.fetching import MANIFEST, WEIGHTS, Published, fetch_version, read_published, version_folder
from nigaoe.core.errors import AdapterError, ConfigError, DataError
from nigaoe.core.manifests import AdapterManifest
from nigaoe.core.storage import FileStat, absolute, exists, is_inside, join, list_files, read_bytes, write_whole
from nigaoe.core.stores import MissingFile
from nigaoe.core.transfers import put_file, remove, remove_empty, sha256_of

log = logging.getLogger(__name__)

REMOVED = "removed"
GRACE_S = 3600.0
"""Longer than any request, its retries included."""
SETTLING_S = 3.0
"""Clocks of stores tick in seconds: a pointer that is younger may have been written twice without its time telling."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"versions/[0-9a-f]{12}(-[0-9]{1,4})?")


class NotPublished(AdapterError):
    """The registry has no adapter of this name."""


@dataclass(frozen=True)
class Entry(Published):
    """An adapter of a registry, as it is now."""

    name: str


@dataclass(frozen=True)
class _Read:
    """A pointer as it was read last."""

    stat: tuple[int, int]
    first_seen: float
    read_at: float
    entry: Entry | None


def require_name(name: str) -> None:
    """Refuse what cannot be the name of an adapter.

    Raises:
        ConfigError: It has other letters, or too many.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"an adapter cannot be called {name[:100]!r}; take letters, digits, '.', '_' and '-', at most 100, "
            "a letter or digit first"
        )


class Registry:
    """One registry; any number of processes may have the same one. Not for several threads at once."""

    def __init__(self, address: str, grace_s: float = GRACE_S) -> None:
        """`address`: a folder or `s3://bucket/folder`; `grace_s`: how long versions outlive their removal."""
        self.address, self._grace_s = absolute(address), grace_s
        self._seen: dict[str, _Read] = {}

    def publish(self, weights: Path, manifest: AdapterManifest, name: str | None = None) -> Entry:
        """Copy an adapter here, and let it count from then on; the name is the manifest's if no other is given.

        Raises:
            ConfigError: No name of an adapter, or one under which a link leads out of the registry.
            DataError: The file is not the one that the manifest speaks of, or the registry cannot be written.
        """
        name = manifest.name if name is None else name
        require_name(name)
        try:
            found = sha256_of(str(weights))
        except DataError as error:
            raise DataError(f"{str(weights)!r} cannot be read ({error}); finish the run first") from None
        if found != manifest.sha256:
            raise DataError(
                f"{str(weights)!r} is not the adapter that {MANIFEST} beside it speaks of; train again to write both"
            )
        place = join(self.address, name)
        manifest = self._with_folder(place, manifest)
        described = json.dumps(manifest.model_dump(mode="json"), indent=2).encode() + b"\n"
        version = join(place, version_folder(manifest))
        if not is_inside(version, self.address):
            raise ConfigError(f"a link under {name!r} leads out of the registry; remove it, or take another name")
        if not _holds(join(version, WEIGHTS), manifest.sha256):
            put_file(weights, join(version, WEIGHTS))
        write_whole(join(version, MANIFEST), described)
        write_whole(join(place, MANIFEST), described)
        # Where older versions of this package kept a second copy, which would now be another adapter.
        remove(join(place, WEIGHTS))
        return Entry(manifest, join(version, WEIGHTS), name)

    def entries(self) -> list[Entry]:
        """What can be had now, by name; entries that are broken are left out and logged.

        Raises:
            DataError: The registry cannot be read.
        """
        files = {file.name: file for file in _files_below(self.address)}
        pointers = {name: file for path, file in files.items() if (name := _name_of_pointer(path))}
        self._seen = {name: read for name, read in self._seen.items() if name in pointers}
        entries = [self._looked_at(name, file, files) for name, file in sorted(pointers.items())]
        return [entry for entry in entries if entry is not None]

    def find(self, name: str) -> Entry:
        """What counts under a name at this moment.

        Raises:
            NotPublished: Nothing.
            DataError: Its entry is broken, or the registry cannot be read.
        """
        try:
            require_name(name)
            published = read_published(join(self.address, name))
        except (ConfigError, MissingFile):
            raise NotPublished(f"the registry has no adapter {name[:100]!r}; publish or upload it first") from None
        return Entry(published.manifest, published.where, name)

    def fetch(self, entry: Published) -> Path:
        """A local file of just this version.

        Raises:
            AdapterError: It is gone, or its content is another.
        """
        return fetch_version(entry.where, entry.sha256)

    def delete(self, name: str) -> None:
        """Let an adapter be no more: at once for whoever looks, after the grace time for whoever has found it before.

        Raises:
            NotPublished: There is none of this name.
            DataError: The registry cannot be written.
        """
        place = join(self.address, name) if _NAME.fullmatch(name) else ""
        if not place or not is_inside(place, self.address) or not remove(join(place, MANIFEST)):
            raise NotPublished(f"the registry has no adapter {name[:100]!r}, so there is nothing to delete")
        remove(join(place, WEIGHTS))
        for version in {file.name.rpartition("/")[0] for file in _files_below(place)}:
            if _VERSION.fullmatch(version):
                _condemn(join(place, version), time.time())

    def sweep(self, now: float | None = None) -> int:
        """Take away what was removed longer ago than the grace time, and what was never finished; returns how many.

        Raises:
            DataError: The registry cannot be read or written.
        """
        now = time.time() if now is None else now
        folders: dict[tuple[str, str], dict[str, FileStat]] = {}
        for file in _files_below(self.address):
            name, _, rest = file.name.partition("/")
            folder, _, base = rest.rpartition("/")
            if _NAME.fullmatch(name) and (not folder or _VERSION.fullmatch(folder)):
                folders.setdefault((name, folder), {})[base] = file
        swept = 0
        for (name, folder), files in folders.items():
            for file in files.values():
                if file.name.endswith(".part") and now - file.mtime_ns / 1e9 > self._grace_s:
                    remove(file.uri)
            if folder and self._is_over(name, folder, files, folders, now):
                place = join(self.address, name)
                for base in (MANIFEST, WEIGHTS, REMOVED):
                    remove(join(place, f"{folder}/{base}"))
                for empty in (folder, "versions", ""):
                    remove_empty(join(place, empty))
                swept += 1
        return swept

    def _is_over(
        self,
        name: str,
        folder: str,
        files: dict[str, FileStat],
        folders: dict[tuple[str, str], dict[str, FileStat]],
        now: float,
    ) -> bool:
        place = join(self.address, name)
        if REMOVED not in files:
            # A publisher or a deleter died here; or one is at work, which takes less than the grace time.
            newest = max(file.mtime_ns for file in files.values()) / 1e9
            if MANIFEST not in folders.get((name, ""), {}) and now - newest > self._grace_s:
                _condemn(join(place, folder), now)
            return False
        if now - _since(files[REMOVED].uri, now) <= self._grace_s:
            return False
        try:
            counts = version_folder(read_published(place).manifest) == folder
        except MissingFile:
            counts = False
        if counts:
            # It came back in the moment in which it was removed.
            remove(files[REMOVED].uri)
        return not counts

    def _looked_at(self, name: str, file: FileStat, files: dict[str, FileStat]) -> Entry | None:
        now, seen = time.monotonic(), self._seen.get(name)
        is_same = seen is not None and seen.stat == (file.size, file.mtime_ns)
        if seen is not None and is_same and seen.read_at - seen.first_seen >= SETTLING_S:
            return seen.entry
        entry: Entry | None = None
        try:
            entry = self.find(name)
            if f"{name}/{version_folder(entry.manifest)}/{WEIGHTS}" not in files and not self._has(entry):
                raise DataError(f"{entry.where!r} does not exist; publish the adapter again")
        except NotPublished:
            # Deleted since its folder was listed.
            return None
        except DataError as error:
            entry = None
            if not is_same:
                log.warning("adapter %r of the registry is hidden: %s", name, error, extra={"adapter": name})
        first = seen.first_seen if seen is not None and is_same else now
        self._seen[name] = _Read((file.size, file.mtime_ns), first, now, entry)
        return entry

    def _has(self, entry: Entry) -> bool:
        """Whether weights that were not listed are there all the same, and no link to something else."""
        return is_inside(entry.where, self.address) and exists(entry.where)

    def _with_folder(self, place: str, manifest: AdapterManifest) -> AdapterManifest:
        """The manifest with the first folder for its hash that was never removed."""
        digits = f"versions/{manifest.sha256[:12]}"
        for number in range(1, 10_000):
            folder = digits if number == 1 else f"{digits}-{number}"
            if not exists(join(place, f"{folder}/{REMOVED}")):
                return manifest.model_copy(update={"folder": None if number == 1 else folder})
        raise DataError(f"{place!r} was deleted too often; take another name")


def _files_below(folder: str) -> list[FileStat]:
    try:
        return list_files(folder, with_links=False)
    except MissingFile:
        return []


def _name_of_pointer(path: str) -> str | None:
    name, _, rest = path.partition("/")
    return name if rest == MANIFEST and _NAME.fullmatch(name) else None


def _holds(uri: str, sha256: str) -> bool:
    try:
        return sha256_of(uri) == sha256
    except MissingFile:
        return False


def _condemn(version: str, now: float) -> None:
    write_whole(join(version, REMOVED), f"{now:.0f}\n".encode())


def _since(uri: str, now: float) -> float:
    try:
        return float(read_bytes(uri))
    except (MissingFile, ValueError):
        return now
