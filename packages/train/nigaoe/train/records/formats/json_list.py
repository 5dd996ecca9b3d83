"""The original IP-Adapter listing: one JSON list of objects, `[{"image_file": ..., "text": ...}]`."""

import json

from nigaoe.core.errors import DataError
from nigaoe.train.records.formats import json_lines
from nigaoe.train.records.rows import Row


def parse(text: str, name: str) -> list[Row]:
    """Rows of a file's text.

    Raises:
        DataError: It is no JSON, or no list of objects.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        # Many a file of one object per line is called .json.
        if json_lines.looks_so(text):
            return json_lines.parse(text, name)
        raise DataError(f"captions file {name!r} is not valid JSON ({error}); mend its syntax") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f'captions file {name!r} is not a list like [{{"image_file": ..., "text": ...}}]')
    return [Row(f"row {number} of {name!r}", value) for number, value in enumerate(values, 1)]
