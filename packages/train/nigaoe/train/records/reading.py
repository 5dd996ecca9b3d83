"""All rows of a dataset, in whichever of the formats it is kept."""

import hashlib
from collections.abc import Callable, Iterator

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.train.config import DataConfig, Format
from nigaoe.train.records.formats.imagefolder import read_imagefolder
from nigaoe.train.records.formats.parquet import read_parquet
from nigaoe.train.records.formats.picture_folder import read_folder
from nigaoe.train.records.formats.samples import split_name, text_extensions
from nigaoe.train.records.formats.tables import read_tables
from nigaoe.train.records.formats.webdataset import read_webdataset
from nigaoe.train.records.names import is_picture_name
from nigaoe.train.records.quarantine import read_quarantine
from nigaoe.train.records.record import Record
from nigaoe.train.records.rows import Listing
from nigaoe.train.records.sources import Source, find_source

READERS: dict[Format, Callable[[Source, DataConfig], Listing]] = {
    "json": read_tables,
    "jsonl": read_tables,
    "csv": read_tables,
    "folder": read_folder,
    "imagefolder": read_imagefolder,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
}
TEXTS = ("json", "jsonl", "csv", "imagefolder")


def read_records(data: DataConfig) -> list[Record]:
    """Rows that can be used: all but those in quarantine. The split is not applied.

    Raises:
        DataError: The source is missing, malformed or empty, a row lacks its caption, or all are in quarantine.
    """
    listing = _listing(data)
    bad = {} if data.quarantine is None else read_quarantine(data.quarantine)
    kept = [(at, record) for at, record in enumerate(listing.records) if record.key not in bad]
    if not kept:
        raise DataError(
            f"all {len(listing.records)} rows of {data.source!r} are in quarantine {str(data.quarantine)!r}; "
            f"see there what is wrong with them"
        )
    problems = [listing.captionless[at] for at, _ in kept if at in listing.captionless]
    if problems:
        others = f", nor have {len(problems) - 1} other rows" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{others}; write one, or list the row in data.quarantine")
    return [record for _, record in kept]


def all_records(data: DataConfig) -> list[Record]:
    """Every row, those in quarantine and those without captions too: for whoever looks for what is wrong.

    Raises:
        DataError: The source is missing, malformed or empty.
    """
    return _listing(data).records


def source_fingerprint(data: DataConfig) -> str:
    """Another one whenever the rows may have changed: SHA-256 of what lists them.

    Of one captions file its own; else of the names of all files, with the texts where there are captions and with
    sizes and times where there are pictures.

    Raises:
        DataError: The source is missing, or may not be read.
    """
    source = find_source(data)
    if source.format in TEXTS and len(source.files) == 1:
        return hashlib.sha256(storage.read_bytes(source.files[0].uri)).hexdigest()
    digest = hashlib.sha256()
    for line in _lines(source, data):
        digest.update(line)
    return digest.hexdigest()


def _lines(source: Source, data: DataConfig) -> Iterator[bytes]:
    is_folder = source.format == "folder"
    for file in source.files:
        if source.format not in TEXTS and (not is_folder or is_picture_name(file.name)):
            yield f"{file.name}\0{file.size}\0{file.mtime_ns}\n".encode()
    extensions = text_extensions(data)
    texts = [
        file
        for file in source.files
        if source.format in TEXTS or (is_folder and split_name(file.name, data)[1] in extensions)
    ]
    for file, content in zip(texts, storage.read_many([file.uri for file in texts]), strict=True):
        yield f"{file.name}\0{hashlib.sha256(content).hexdigest()}\n".encode()


def _listing(data: DataConfig) -> Listing:
    source = find_source(data)
    listing = READERS[source.format](source, data)
    if not listing.records:
        raise DataError(f"source {data.source!r} holds no rows; nothing can be trained on it")
    return listing.with_unique_keys()
