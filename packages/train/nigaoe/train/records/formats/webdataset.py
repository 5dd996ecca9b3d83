"""WebDataset: tars in which files of one name follow one another, `0001.jpg`, `0001.txt`, `0001.json`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from nigaoe.core.storage import FileStat
from nigaoe.train.config import DataConfig
from nigaoe.train.records.formats.samples import Sample, list_samples, require_columns, text_extensions
from nigaoe.train.records.formats.tar_members import extension_of, tar_members
from nigaoe.train.records.names import is_picture_name
from nigaoe.train.records.record import Picture
from nigaoe.train.records.rows import Listing
from nigaoe.train.records.sources import Source

THREADS = 8
"""Tars are read so many at a time, for what takes the time is waiting for their storage."""


def read_webdataset(source: Source, data: DataConfig) -> Listing:
    """One row for each sample; pictures are passed over.

    Raises:
        DataError: A tar is damaged, a sample has no picture, or a column that cannot be read.
    """
    listing, seen = Listing(), set[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        folder = data.image_root or source.root
        read = pool.map(lambda file: list_samples(_samples(file, data), data, folder), source.files)
        for rows, columns in read:
            listing.extend(rows)
            seen |= columns
    if listing.records:
        require_columns(source.name, seen, data)
    return listing


def _samples(file: FileStat, data: DataConfig) -> Iterator[Sample]:
    sample = None
    for member in tar_members(file.uri, text_extensions(data)):
        extension = extension_of(member.name)
        name = member.name[: -len(extension) - 1] if extension else member.name
        if not extension or not name.rpartition("/")[2]:
            continue
        key = f"{file.name}/{name}"
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key, f"sample {name!r} of {file.uri!r}")
        if member.content is not None:
            sample.texts[extension] = member.content
        elif is_picture_name(extension):
            sample.pictures[extension] = Picture(file.uri, member.start, member.length, member=member.name)
    if sample is not None:
        yield sample
