"""Files read and written by address, wherever they are; failures are one sentence, and nothing waits for ever."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from nigaoe.core import atomic
from nigaoe.core.errors import DataError
from nigaoe.core.stores import Location, MissingFile, filesystem_of, in_a_sentence, locate

THREADS = 16
"""Small files are read so many at a time, for what takes the time is waiting for their storage."""
CHUNK = 32
"""Files that one thread reads after another, for handing them over costs more than reading one on a disk."""
READ_AHEAD = 1 << 18
"""Bytes. Reading on is cheaper than another request where the next thing is near."""


class FileStat(NamedTuple):
    """A file."""

    name: str
    """Its path below the folder that was listed; its own name where it was asked for itself."""
    uri: str
    """Absolute path, or `s3://bucket/key`."""
    size: int
    """Bytes."""
    mtime_ns: int


def absolute(uri: str) -> str:
    """The same address from every working folder."""
    return locate(uri).uri


def join(folder: str, name: str) -> str:
    """Address of a file by its path in a folder; a path from the root, or an address, is itself."""
    if "://" in name or name.startswith("/"):
        return absolute(name)
    return locate(folder).child(name).uri if name else absolute(folder)


def folder_of(uri: str) -> str:
    """Address of the folder that a file is in."""
    location = locate(uri)
    return Location(location.store, os.path.dirname(location.path), location.options).uri


def base_name(uri: str) -> str:
    """The last part of an address."""
    return os.path.basename(locate(uri).path)


def stat(uri: str) -> FileStat | None:
    """What is known of a file; None where it is a folder.

    Raises:
        DataError: Missing (`MissingFile`), or it cannot be asked.
    """
    location = locate(uri)
    name = base_name(uri)
    if not location.store:
        with in_a_sentence(location, "read"):
            found = os.stat(location.path)
            return (
                None if os.path.isdir(location.path) else FileStat(name, location.uri, found.st_size, found.st_mtime_ns)
            )
    with in_a_sentence(location, "read"):
        info = filesystem_of(location).get_file_info(location.path)
    if info.type.name == "NotFound":
        raise _missing(location)
    return None if info.type.name == "Directory" else FileStat(name, location.uri, info.size, info.mtime_ns or 0)


def exists(uri: str) -> bool:
    """Whether there is a file or a folder.

    Raises:
        DataError: It cannot be asked, or there is no such bucket.
    """
    try:
        stat(uri)
    except MissingFile:
        return False
    return True


def list_files(folder: str, *, with_links: bool = True) -> list[FileStat]:
    """All files in a folder and below, by name; those whose name, or folder's, begins with a dot are left out.

    Without links, neither those to files nor those to folders are looked at.

    Raises:
        DataError: Missing, no folder, or it may not be read.
    """
    location = locate(folder)
    with in_a_sentence(location, "read"):
        return sorted(_objects(location) if location.store else _walk(location.path, with_links))


def list_names(folder: str) -> list[str]:
    """Names of the files that are in a folder itself; none where there is no such folder.

    Raises:
        DataError: It may not be read, or there is no such bucket.
    """
    location = locate(folder)
    try:
        with in_a_sentence(location, "read"):
            if not location.store:
                return os.listdir(location.path)
            return [info.base_name for info in _infos(location, is_deep=False)]
    except MissingFile:
        return []


def open_file(uri: str) -> IO[bytes]:
    """A file to seek and read in.

    Raises:
        DataError: Missing (`MissingFile`), or it may not be read.
    """
    location = locate(uri)
    with in_a_sentence(location, "read"):
        if not location.store:
            return open(location.path, "rb")
        try:
            file: IO[bytes] = filesystem_of(location).open_input_file(location.path)
        except FileNotFoundError:
            raise _missing(location) from None
        return file


def read_bytes(uri: str, start: int | None = None, length: int | None = None) -> bytes:
    """A whole file, or up to `length` bytes of it from `start` on.

    Raises:
        DataError: Missing (`MissingFile`), or it may not be read.
    """
    location = locate(uri)
    if location.store and start is not None and length is not None:
        with in_a_sentence(location, "read"):
            part: bytes = _kept_open(uri).read_at(length, start)
            return part
    with open_file(uri) as file, in_a_sentence(location, "read"):
        if start:
            file.seek(start)
        return file.read() if length is None else file.read(length)


@lru_cache(maxsize=32)
def _kept_open(uri: str) -> Any:
    """A file of which many parts are read: to open one is a request of its own."""
    return open_file(uri)


def read_many(uris: Sequence[str]) -> Iterator[bytes]:
    """Many small files, in order.

    Raises:
        DataError: One of them is missing or may not be read.
    """
    parts = [uris[start : start + CHUNK] for start in range(0, len(uris), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for contents in pool.map(lambda part: [read_bytes(uri) for uri in part], parts):
            yield from contents


def write_whole(uri: str, content: bytes) -> None:
    """Write a file whole or not at all, over an older one if there is one; folders are made.

    Raises:
        DataError: It may not be written.
    """
    location = locate(uri)
    with in_a_sentence(location, "written"):
        if not location.store:
            atomic.write_whole(Path(location.path), content)
            return
        # A store shows an object only once all of it has come.
        with filesystem_of(location).open_output_stream(location.path) as stream:
            stream.write(content)


def _missing(location: Location) -> DataError:
    """Whether the file is missing or the whole bucket: asked about a file, a store does not say."""
    with in_a_sentence(location, "read"):
        if filesystem_of(location).get_file_info(location.bucket).type.name == "NotFound":
            raise OSError("NO_SUCH_BUCKET")
    return MissingFile(f"{location.uri!r} does not exist; mend the path")


def is_inside(uri: str, folder: str) -> bool:
    """Whether a path below a folder stays there when all links are followed; in a bucket there are none."""
    if locate(uri).store:
        return True
    return Path(os.path.realpath(locate(uri).path)).is_relative_to(os.path.realpath(locate(folder).path))


def _walk(
    folder: str, with_links: bool, above: str = "", parents: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[FileStat]:
    # Links are followed, for large datasets are often put together from them; a circle of them is walked once.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # What went since the folder was opened, as a file that got its final name does, is no longer in it.
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=with_links):
                    found = os.stat(entry.path)
                    this = (found.st_dev, found.st_ino)
                    if this not in parents:
                        yield from _walk(entry.path, with_links, f"{above}{entry.name}/", parents | {this})
                elif entry.is_file(follow_symlinks=with_links):
                    found = entry.stat()
                    yield FileStat(above + entry.name, entry.path, found.st_size, found.st_mtime_ns)


def _objects(location: Location) -> Iterator[FileStat]:
    start = len(location.path) + 1
    for info in _infos(location, is_deep=True):
        name = info.path[start:]
        if info.type.name == "File" and not any(part.startswith(".") for part in name.split("/")):
            yield FileStat(name, location.child(name).uri, info.size, info.mtime_ns or 0)


def _infos(location: Location, *, is_deep: bool) -> list[Any]:
    from pyarrow.fs import FileSelector

    try:
        infos: list[Any] = filesystem_of(location).get_file_info(FileSelector(location.path, recursive=is_deep))
    except FileNotFoundError:
        raise _missing(location) from None
    return infos
