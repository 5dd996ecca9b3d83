"""What is in a tar, and where: headers are read, pictures are passed over."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.core.stores import in_a_sentence, locate


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    start: int
    """First byte of its content."""
    length: int
    content: bytes | None
    """Where it was asked for."""


def tar_members(uri: str, texts: set[str]) -> Iterator[Member]:
    """Files of a tar in its order; those with one of the extensions with their content.

    Raises:
        DataError: Missing, no tar, compressed, or cut off.
    """
    with _opened(uri) as file, in_a_sentence(locate(uri), "read"):
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="replace") as tar:
                for info in tar:
                    # Otherwise the headers of a million files would stay.
                    tar.members = []  # type: ignore[attr-defined]
                    if not info.isreg() or info.issparse():
                        continue
                    is_wanted = extension_of(info.name) in texts
                    content = _content(file, info) if is_wanted else None
                    yield Member(info.name, info.offset_data, info.size, content)
                _require_end(file, tar.offset)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"tar {uri!r} is damaged or cut off ({error}); replace it, uncompressed") from None


def extension_of(name: str) -> str:
    """All behind the first dot of the last part, in small letters, as WebDataset has it."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _opened(uri: str) -> IO[bytes]:
    file = storage.open_file(uri)
    # Near headers come with one request.
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file), storage.READ_AHEAD)


def _content(file: IO[bytes], info: tarfile.TarInfo) -> bytes:
    file.seek(info.offset_data)
    content = file.read(info.size)
    if len(content) < info.size:
        raise EOFError(f"{info.name} ends too early")
    return content


def _require_end(file: IO[bytes], offset: int) -> None:
    """The block of zeros that ends a tar: `tarfile` takes a header that is cut off for the end, too."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise EOFError("it has no end")
