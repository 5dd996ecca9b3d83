"""Comma-separated values with a header."""

import csv
import io

from nigaoe.core.errors import DataError
from nigaoe.train.records.rows import Row


def parse(text: str, name: str) -> list[Row]:
    """Rows of a file's text.

    Raises:
        DataError: Its quotes do not match, or a row has more fields than the header.
    """
    try:
        table = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"captions file {name!r} is not valid CSV ({error}); mend its quotes") from None
    rows = [Row(f"row {number} of {name!r}", values) for number, values in enumerate(table, 1)]
    for row in rows:
        if None in row.values:
            raise DataError(f"{row.place} has more fields than the header; put captions that hold commas in quotes")
    return rows
