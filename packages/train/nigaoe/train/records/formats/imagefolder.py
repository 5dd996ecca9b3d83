"""Hugging Face's folder of pictures: `metadata.jsonl`, `.csv` or `.parquet` in it, or in several of its folders."""

from nigaoe.train.config import DataConfig
from nigaoe.train.records.formats.parquet import read_parquet_file
from nigaoe.train.records.formats.tables import read_table
from nigaoe.train.records.rows import Listing
from nigaoe.train.records.sources import Source


def read_imagefolder(source: Source, data: DataConfig) -> Listing:
    """All rows of a source of this kind.

    Raises:
        DataError: A file is malformed, or lacks a column.
    """
    listing = Listing()
    for file in source.files:
        if file.name.endswith(".parquet"):
            listing.extend(read_parquet_file(file, data))
        else:
            listing.extend(read_table(file, "csv" if file.name.endswith(".csv") else "jsonl", data))
    return listing
