"""What `data.source` means: which files, in which format."""

from collections.abc import Sequence
from dataclasses import dataclass

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.core.storage import FileStat
from nigaoe.train.config import DataConfig, Format
from nigaoe.train.records.names import is_picture_name
from nigaoe.train.records.patterns import is_pattern, matching_files, pattern_root

EXTENSIONS: dict[Format, tuple[str, ...]] = {
    "json": (".json",),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "webdataset": (".tar",),
}
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""What lists the pictures of an `imagefolder`, in any of its folders."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SNIFFED_BYTES = 512


@dataclass(frozen=True)
class Source:
    """The files of a dataset."""

    name: str
    """As the config writes it."""
    format: Format
    root: str
    """Folder that they are in, above all of them."""
    files: Sequence[FileStat]
    """Those that list pictures or hold them; in a folder of pictures all that is there."""


def find_source(data: DataConfig) -> Source:
    """Find the files and tell their format.

    Raises:
        DataError: There are none, or their format cannot be told.
    """
    name = data.source
    if is_pattern(name):
        files = matching_files(name)
        return Source(name, data.format or _format_of_file(files[0]), pattern_root(name), files)
    uri = storage.absolute(name)
    file = storage.stat(uri)
    if file is None:
        return _folder(name, storage.list_files(uri), data.format)
    if data.format == "folder":
        raise DataError(f"source {name!r} is a file, but data.format 'folder' needs a folder of pictures; name that")
    return Source(name, data.format or _format_of_file(file), storage.folder_of(uri), [file])


def _folder(name: str, files: list[FileStat], asked: Format | None) -> Source:
    form = asked or _format_of_folder(name, files)
    if form == "imagefolder":
        listing = [file for file in files if storage.base_name(file.uri) in METADATA]
        wanted = " or ".join(METADATA)
    elif form == "folder":
        listing, wanted = files, "pictures"
    else:
        listing = [file for file in files if file.name.endswith(EXTENSIONS[form])]
        wanted = f"{EXTENSIONS[form][0]} files"
    if not listing:
        raise DataError(f"folder {name!r} holds no {wanted}; name another one or another data.format")
    return Source(name, form, storage.absolute(name), listing)


def _format_of_folder(name: str, files: Sequence[FileStat]) -> Format:
    if any(storage.base_name(file.uri) in METADATA for file in files):
        return "imagefolder"
    if any(file.name.endswith(".parquet") for file in files):
        return "parquet"
    if any(file.name.endswith(".tar") for file in files):
        return "webdataset"
    if any(is_picture_name(file.name) for file in files):
        return "folder"
    raise DataError(f"folder {name!r} holds neither pictures nor .parquet or .tar files; name the folder that does")


def _format_of_file(file: FileStat) -> Format:
    for form, extensions in EXTENSIONS.items():
        if file.name.lower().endswith(extensions):
            return form
    if file.name.lower().endswith(COMPRESSED):
        raise DataError(
            f"{file.uri!r} is compressed, so no picture in it can be read by itself; decompress it, for pictures "
            f"hardly shrink"
        )
    start = storage.read_bytes(file.uri, 0, SNIFFED_BYTES)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"PAR1"):
        return "parquet"
    if start[257:262] == b"ustar":
        return "webdataset"
    if text.startswith((b"[", b"{")):
        return "json" if text.startswith(b"[") else "jsonl"
    raise DataError(
        f"source {file.uri!r} is no .json, .jsonl, .csv, .parquet or .tar file by its name or content; "
        f"convert it to one of them, or name its data.format"
    )
