"""`samples.csv`: a row per cell and sample, exact to the last bit, for comparing runs and for spreadsheets.

An empty figure is one that could not be had, or that the cell has not: a figure that no sample of a cell has is lost.
"""

import csv
import io
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nigaoe.core.atomic import whole_file
from nigaoe.core.errors import DataError
from nigaoe.eval.running.tables import SampleTable

_HEAD = ("cell", "sample", "group", "failed")
_AGAIN = "run the evaluation again"


def write_samples(path: Path, tables: dict[str, SampleTable]) -> None:
    """Write the tables of all cells, whole or not at all."""
    names = list(dict.fromkeys(name for table in tables.values() for name in table.columns))
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text)
        writer.writerow((*_HEAD, *names))
        for cell, table in tables.items():
            columns = [table.columns.get(name) for name in names]
            for i, (sample, group) in enumerate(zip(table.ids, table.groups, strict=True)):
                figures = ("" if column is None else _written(float(column[i])) for column in columns)
                writer.writerow((cell, sample, group, table.failed.get(sample, ""), *figures))
        text.flush()
        text.detach()


def read_samples(path: Path) -> dict[str, SampleTable]:
    """The tables of all cells, by name.

    Raises:
        DataError: Missing, damaged or no such file.
    """
    if not path.is_file():
        raise DataError(f"{str(path)!r} does not exist; give the folder of a finished evaluation")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return _tables(csv.reader(file, strict=True), str(path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} is not a table of samples ({error}); {_AGAIN}") from None


class _Rows:
    """A cell as far as it was read; 8 bytes a figure."""

    def __init__(self, names: list[str]) -> None:
        self.samples: dict[str, str] = {}
        """Group by sample."""
        self.failed: dict[str, str] = {}
        self.columns = {name: array("d") for name in names}

    def table(self) -> SampleTable:
        columns = {name: np.frombuffer(values, np.float64) for name, values in self.columns.items()}
        return SampleTable(
            ids=tuple(self.samples),
            groups=tuple(self.samples.values()),
            columns={name: values for name, values in columns.items() if not np.isnan(values).all()},
            failed=self.failed,
        )


def _tables(rows: Iterable[list[str]], where: str) -> dict[str, SampleTable]:
    cells: dict[str, _Rows] = {}
    head: list[str] | None = None
    for number, row in enumerate(rows, start=1):
        if head is None:
            head = row
            if tuple(row[: len(_HEAD)]) != _HEAD or len(set(row)) != len(row):
                raise DataError(f"{where!r} does not begin with the columns {', '.join(_HEAD)}; {_AGAIN}")
            continue
        if len(row) != len(head):
            raise DataError(f"row {number} of {where!r} has {len(row)} fields and not {len(head)}; {_AGAIN}")
        cell, sample, group, failed = row[: len(_HEAD)]
        into = cells.setdefault(cell, _Rows(head[len(_HEAD) :]))
        if sample in into.samples:
            raise DataError(f"row {number} of {where!r} is sample {sample!r} of cell {cell!r} once more; {_AGAIN}")
        into.samples[sample] = group
        if failed:
            into.failed[sample] = failed
        for (name, column), text in zip(into.columns.items(), row[len(_HEAD) :], strict=True):
            column.append(_read(text, name, number, where))
    if not cells:
        raise DataError(f"{where!r} has no samples; {_AGAIN}")
    return {name: cell.table() for name, cell in cells.items()}


def _written(value: float) -> str:
    return "" if value != value else repr(value)


def _read(text: str, name: str, number: int, where: str) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise DataError(f"row {number} of {where!r} has {text!r} for {name!r}, which is no number; {_AGAIN}") from None
