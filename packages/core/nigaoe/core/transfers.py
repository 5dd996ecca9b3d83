"""Large files to and from an address, never whole in memory; and their removal."""

import hashlib
import os
import shutil
from pathlib import Path

from nigaoe.core.atomic import whole_file
from nigaoe.core.storage import open_file
from nigaoe.core.stores import MissingFile, filesystem_of, in_a_sentence, locate

CHUNK = 1 << 20
"""Bytes."""


def put_file(source: Path, uri: str) -> None:
    """Copy a local file to an address; in a folder it is there whole or not at all, and folders are made.

    A bucket may be left with the beginning of a file whose source could not be read to its end: say what its hash must
    be, and only after it has come.

    Raises:
        DataError: It may not be written.
    """
    location = locate(uri)
    with in_a_sentence(location, "written"), source.open("rb") as file:
        if not location.store:
            with whole_file(Path(location.path)) as out:
                shutil.copyfileobj(file, out, CHUNK)
            return
        with filesystem_of(location).open_output_stream(location.path) as stream:
            while part := file.read(CHUNK):
                stream.write(part)


def get_file(uri: str, target: Path) -> str:
    """Copy a file to this machine, there whole or not at all; returns its SHA-256.

    Raises:
        DataError: Missing (`MissingFile`), or it may not be read.
    """
    digest = hashlib.sha256()
    with open_file(uri) as file, in_a_sentence(locate(uri), "read"), whole_file(target) as out:
        while part := file.read(CHUNK):
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def sha256_of(uri: str) -> str:
    """Of a file, read in parts.

    Raises:
        DataError: Missing (`MissingFile`), or it may not be read.
    """
    digest = hashlib.sha256()
    with open_file(uri) as file, in_a_sentence(locate(uri), "read"):
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def remove(uri: str) -> bool:
    """Remove a file; False where there is none. A link is removed, not what it leads to.

    Raises:
        DataError: It may not be removed.
    """
    location = locate(uri)
    try:
        with in_a_sentence(location, "written"):
            if location.store:
                filesystem_of(location).delete_file(location.path)
            else:
                os.unlink(location.path)
    except MissingFile:
        return False
    return True


def remove_empty(uri: str) -> None:
    """Remove a folder that holds nothing; one that does stays."""
    location = locate(uri)
    if location.store:
        # There are none; where Arrow left a mark that looks like one, it is the name of the folder and nothing else.
        with in_a_sentence(location, "written"):
            filesystem = filesystem_of(location)
            from pyarrow.fs import FileSelector

            if not filesystem.get_file_info(FileSelector(location.path, allow_not_found=True)):
                filesystem.delete_dir_contents(location.path, missing_dir_ok=True)
                filesystem.delete_dir(location.path)
        return
    try:
        os.rmdir(location.path)
    except OSError:
        return
