"""One JSON object per line."""

import json

from nigaoe.core.errors import DataError
from nigaoe.train.records.rows import Row


def parse(text: str, name: str) -> list[Row]:
    """Rows of a file's text; empty lines are none.

    Raises:
        DataError: A line is no JSON object.
    """
    # Not splitlines(), which also splits at characters that JSON allows inside a text.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [Row(f"line {number} of {name!r}", _object(line, number, name)) for number, line in lines]


def looks_so(text: str) -> bool:
    """Whether the first line is an object by itself."""
    try:
        return isinstance(json.loads(text.lstrip().partition("\n")[0]), dict)
    except json.JSONDecodeError:
        return False


def _object(line: str, number: int, name: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"line {number} of {name!r} is not valid JSON ({error}); mend its syntax") from None
    if not isinstance(value, dict):
        raise DataError(f'line {number} of {name!r} is no object like {{"file_name": ..., "text": ...}}')
    return value
